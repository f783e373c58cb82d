"""Imports point one way."""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def module_name(path: Path) -> str:
    """Turn ``cvae/run/__init__.py`` into ``cvae.run``."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {
    module_name(path): path for path in [ROOT / "main.py", *sorted((ROOT / "cvae").rglob("*.py"))]
}


def imported_names(path: Path) -> set[str]:
    """All that a file imports, wherever in it: modules, and from these their modules or other names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module and not node.level, f"{path} has a relative import"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


IMPORTS = {module: imported_names(path) for module, path in FILES.items()}


def importers(name: str) -> set[str]:
    return {module for module, names in IMPORTS.items() if name in names}


def test_imports_have_no_circle():
    graph = {module: names & FILES.keys() for module, names in IMPORTS.items()}
    assert "cvae.training.loop" in graph["cvae.train"]
    graphlib.TopologicalSorter(graph).prepare()  # else its CycleError has the circle


@pytest.mark.parametrize(
    "module", [name for name, path in FILES.items() if path.parent == ROOT / "cvae"]
)
def test_ideas_never_import_the_run_or_the_figures(module):
    assert not [
        name for name in IMPORTS[module] if (name + ".").startswith(("cvae.run.", "cvae.figures."))
    ]


def test_only_the_command_line_imports_argparse():
    assert importers("argparse") == {"cvae.run.command_line"}


def test_processes_are_known_to_training_evaluation_and_run_only():
    outside = {
        module
        for name in ("cvae.training.distributed", "torch.distributed")
        for module in importers(name)
        if not module.startswith(("cvae.training.", "cvae.run."))
    }
    assert outside == {"cvae.evaluate", "main"}
