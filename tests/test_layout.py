"""The method stands by itself: which file imports which."""

import ast
from pathlib import Path

import pytest

from .faults import ROOT

METHOD = "baseline config data datasets distributed estimators evaluate figures files history model"
METHOD += " onednn random_numbers optimizer own_images traces train trained"
PATHS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*(ROOT / "cvae").rglob("*.py"), ROOT / "main.py"]
}


def imported(path: Path) -> set[str]:
    """Return the modules of this project that a file imports, at its top or within a function."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level and node.module
            names.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
    return {name for name in names if name in PATHS}


def reached(module: str) -> set[str]:
    """Return all modules that a module needs."""
    found, waiting = set[str](), [module]
    while waiting:
        new = imported(PATHS[waiting.pop()]) - found
        found |= new
        waiting += new
    return found


@pytest.mark.parametrize("name", METHOD.split())
def test_no_file_of_the_method_needs_the_experiment(name):
    assert not {module for module in reached(f"cvae.{name}") if "experiment" in module}


def test_every_file_is_of_one_of_the_rooms_or_a_command():
    flat = {path.stem for path in (ROOT / "cvae").glob("*.py")}
    assert flat == {*METHOD.split(), "compare", "complete", "__init__"}


@pytest.mark.parametrize("module", sorted(PATHS))
def test_no_file_needs_itself_or_main(module):
    assert not reached(module) & {module, "main"}
