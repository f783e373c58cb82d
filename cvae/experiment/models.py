"""Models by name, by which every process and command finds the same class."""

import importlib
import sys
from pathlib import Path
from typing import Any

from cvae.files import UsageError

__all__ = ["find_model", "model_name"]


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
    module_name = path.stem if is_file else place
    if is_file:
        if not path.is_file():
            raise UsageError(f"{name}: there is no file {place}")
        if str(path.parent) not in sys.path:
            sys.path.insert(0, str(path.parent))
        importlib.invalidate_caches()
    try:
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
        raise UsageError(f"{name} is another name of {model_name(found)}: derive a class from it")
    return found


def model_name(model: type) -> str:
    """Return the name of a class that can be imported, ``package.module:Name``."""
    return f"{model.__module__}:{model.__qualname__}"
