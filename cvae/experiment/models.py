"""Models by name, by which every process and command finds the same class."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from cvae.files import UsageError

__all__ = ["check_class", "find_model", "model_name"]


def find_model(name: str) -> Any:
    """Import the class that a name stands for.

    Args:
        name: ``path/to/mine.py:Name``, or ``package.module:Name``.  What the file imports is also
            found beside it.

    Raises:
        UsageError: the file or module is missing, or has no such class.
    """
    place, _, attribute = name.rpartition(":")
    path = Path(place).expanduser().resolve()
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise UsageError(f"{name}: there is no file {place}")
    module_name = path.stem if is_file else place
    try:
        with _first_in_path(path.parent) if is_file else nullcontext():
            module = sys.modules.get(module_name) or importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not f"{module_name}.".startswith(f"{error.name}."):  # one that it imports
            raise
        raise UsageError(f"{name}: there is no module {error.name!r}") from error
    there = getattr(module, "__file__", None)
    if is_file and (there is None or Path(there).resolve() != path):
        raise UsageError(f"{name}: {there or 'Python'} has that name too: rename the file")
    if not isinstance(found := getattr(module, attribute, None), type):
        raise UsageError(f"{name}: {place} has no class {attribute!r}")
    if model_name(found) != f"{module_name}:{attribute}":
        raise UsageError(
            f"{name} is another name of {model_name(found)}: give that, or a class of it"
        )
    return found


@contextmanager
def _first_in_path(folder: Path) -> Iterator[None]:
    """Import from a folder first, and afterwards, as by functions, last."""
    importlib.invalidate_caches()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        if str(folder) not in sys.path:
            sys.path.append(str(folder))


def check_class(net: nn.Module, name: str) -> None:
    """Refuse a model that is not of the class of that name, under which it would be saved.

    Raises:
        UsageError: it is of another class.
    """
    found = model_name(type(getattr(net, "_orig_mod", net)))  # also if it is compiled
    if found != name.replace(".py:", ":"):
        advice = "name its class with --model, or give it to prepare in main.py"
        raise UsageError(f"the run's model is {name}, not {found}: {advice}")


def model_name(model: type) -> str:
    """Return the name of a class that can be imported, ``package.module:Name``."""
    return f"{model.__module__}:{model.__qualname__}"
