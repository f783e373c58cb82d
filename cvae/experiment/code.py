"""The code that a run depends on: hashes of the functions, classes and constants that it uses.

A name is looked up in its module, and then the names in its definition, and so on, but not in the
standard library and in installed packages.  Comments, docstrings and formatting have no effect.
"""

import ast
import functools
import hashlib
import importlib.util
import inspect
import linecache
import sys
import sysconfig
import uuid
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from torch import nn

from cvae.files import UsageError

__all__ = ["LAYERS", "NO_SOURCE", "forget_sources", "hash_code", "hash_net", "plain_values"]

NO_SOURCE = ", which has no source"
CHANGED = "{path} was changed after it had been loaded: restart Python"
LAYERS = "layers and values of the net"
INSTALLED = [sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")]
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
IMPORTS = (ast.Import, ast.ImportFrom)
PLAIN = (bool, int, float, str, bytes, type(None))

Namespace = Mapping[str, Any]  # of a module
Item = tuple[Namespace, str, Any]  # a name in it, and its value


def hash_code(roots: Iterable[Any], not_followed: Collection[str] = ()) -> dict[str, str]:
    """Hash functions and classes, and all that they use, by file.

    Args:
        roots: the functions and classes.
        not_followed: modules or packages into which no other module is followed.

    Returns:
        By file, such as ``"cvae/model.py"``, 16 hexadecimal digits.  What has no source, as a class
        that was typed at a prompt, has an entry of its own, with a value that never comes again.

    Raises:
        UsageError: a file was changed after Python had loaded it.
    """
    found, seen = defaultdict[str, list[str]](list), set[tuple[str, str]]()
    waiting = [_defined_in(inspect.unwrap(root)) for root in roots]
    while waiting:
        namespace, name, value = waiting.pop()
        here = str(namespace.get("__name__"))
        if not _is_own(namespace) or (here, name) in seen:
            continue
        seen.add((here, name))
        file, pieces, used = _read_definition(namespace, name, value)
        if pieces:
            found[file].append("\n".join(pieces))
        for item in [(namespace, "", None), *used]:
            if item[0] is namespace or not _is_within(item[0], not_followed):
                waiting.append(item)
    return {file: _digest("\n".join(sorted(pieces))) for file, pieces in sorted(found.items())}


def hash_net(net: nn.Module) -> dict[str, str]:
    """Hash the code of all modules of a net, their layers, and values that are attributes.

    ``torch.compile`` has no effect.
    """
    layers, values = [], plain_values(net)
    for name, module in net.named_modules():
        if not hasattr(module, "_orig_mod"):
            own = f"{module.extra_repr()} {values[name]}"
            layers.append(f"{name}: {type(module).__qualname__} {own}")
    layers += [f"{name}: {tuple(value.shape)}" for name, value in net.state_dict().items()]
    layers = [line.replace("_orig_mod.", "").replace("._orig_mod", "") for line in layers]
    code = hash_code({type(module) for module in net.modules()})
    return code | {LAYERS: _digest("\n".join(sorted(layers)))}


def plain_values(net: nn.Module) -> dict[str, dict[str, Any]]:
    """Return numbers, strings and the like that are attributes of a net's modules, by module.

    Its weights and buffers are not among them.
    """
    return {
        name: {
            attribute: value
            for attribute, value in vars(module).items()
            if isinstance(value, PLAIN) and attribute != "training" and attribute[0] != "_"
        }
        for name, module in net.named_modules()
    }


def _read_definition(
    namespace: Namespace, name: str, value: Any
) -> tuple[str, list[str], list[Item]]:
    """Return the file of a name's definition, its code without formatting, and what it uses."""
    own, others = _functions(value)
    path = own[0].__code__.co_filename if own else namespace.get("__file__") or ""
    file = module = str(namespace.get("__name__"))
    if namespace.get("__file__"):  # else it is a notebook's
        parts = module.count(".") + 1 + (Path(path).stem == "__init__")
        file = "/".join(Path(path).parts[-parts:])
    pieces, used = [], list(map(_defined_in, others))
    definitions = _read(path).statements
    statements = definitions.get(name) or definitions.get("*", [])
    if not statements and isinstance(value, (type, FunctionType)):
        return f"{name}{NO_SOURCE}", [uuid.uuid4().hex], used
    if statements and not _read(path).has(own):
        forget_sources()
        if not _read(path).has(own):
            raise UsageError(CHANGED.format(path=path))
    for statement in statements:
        if isinstance(statement, ast.ImportFrom):
            relative = "." * statement.level + (statement.module or "")
            origin = importlib.util.resolve_name(relative, namespace.get("__package__"))
            names = {name, *(alias.name for alias in statement.names)}
            used += _look_up(vars(sys.modules.get(origin, sys)), names, set())
        elif not isinstance(statement, ast.Import):
            pieces.append(_text_of(statement))
            used += _look_up(namespace, *_names(statement))
    if isinstance(value, type):  # also what was set from outside
        values = {key: each for key, each in vars(value).items() if isinstance(each, PLAIN)}
        pieces.append(repr({key: each for key, each in values.items() if key[:2] != "__"}))
    elif isinstance(value, PLAIN) and (pieces or not statements) and name[:2] != "__":
        pieces.append(f"{name} = {value!r}")  # also what was computed, or changed since
    elif not statements:  # of a notebook
        pieces.append(f"{name} = {value!r}" if _is_literal(value) else f"{name}: {type(value)}")
    return file, pieces, used


def _defined_in(value: Any) -> Item:
    """Return where a function or class is defined, whoever imports it."""
    name = value.__qualname__.split(".<locals>")[0].rpartition(".")[2]
    own, _ = _functions(value)
    module = sys.modules.get(value.__module__)
    if module is None or isinstance(value, FunctionType):
        return (own[0].__globals__ if own else {}), name, value
    return vars(module), name, value


def _is_own(namespace: Namespace) -> bool:
    """Whether a module is a file, or a notebook, that is not installed."""
    path = namespace.get("__file__")
    return namespace.get("__name__") == "__main__" if path is None else not _is_installed(path)


@functools.cache
def _is_installed(path: str) -> bool:
    folders = {"site-packages", "dist-packages"}.intersection(Path(path).parts)
    return bool(folders) or any(Path(path).is_relative_to(folder) for folder in INSTALLED)


def _is_within(namespace: Namespace, packages: Collection[str]) -> bool:
    return any(f"{namespace.get('__name__')}.".startswith(f"{package}.") for package in packages)


def _functions(value: Any) -> tuple[list[FunctionType], list[FunctionType]]:
    """Return a function, or the functions of a class: its own, and those set from elsewhere."""
    if isinstance(value, FunctionType):
        return [value], []
    own, others = list[FunctionType](), list[FunctionType]()
    for attribute in vars(value).values() if isinstance(value, type) else ():
        parts = [attribute]
        if isinstance(attribute, property):
            parts = [attribute.fget, attribute.fset, attribute.fdel]
        for part in parts:
            function = inspect.unwrap(getattr(part, "__func__", getattr(part, "func", part)))
            generated = "<string>"  # as of dataclasses
            if isinstance(function, FunctionType) and function.__code__.co_filename != generated:
                of_class = function.__qualname__.startswith(f"{value.__qualname__}.")
                of_class &= function.__module__ == value.__module__  # else a named tuple's
                (own if of_class else others).append(function)
    return own, others


def _look_up(namespace: Namespace, names: set[str], attributes: set[str]) -> Iterator[Item]:
    """Find names in a module, and in modules that are among them, the attributes."""
    for name in names & namespace.keys():
        value = namespace[name]
        if isinstance(value, ModuleType):
            if _is_own(vars(value)):
                yield from _look_up(vars(value), attributes - {name}, attributes - {name})
            continue
        value = inspect.unwrap(value) if callable(value) else value
        home = _defined_in(value) if isinstance(value, (type, FunctionType)) else None
        if home:
            yield home
        if not home or home[1] != name:  # a constant, or another name of it
            yield namespace, name, None if home else value


def _acts(statement: ast.stmt) -> bool:
    """Whether a statement can do more than to define a name, as ``TABLE.update(...)`` does."""
    if isinstance(statement, ast.If) and "__main__" in ast.dump(statement.test):
        return False
    targets = getattr(statement, "targets", [getattr(statement, "target", None)])
    plain = all(isinstance(target, (ast.Name, ast.Tuple)) for target in targets)
    assigns = isinstance(statement, (ast.Assign, ast.AnnAssign, ast.AugAssign)) and plain
    return not (assigns or _is_text(statement) or isinstance(statement, (*DEFINITIONS, *IMPORTS)))


@dataclass(frozen=True)
class _Source:
    """A file: the statements that define each of its names, and the code that they become."""

    statements: dict[str, list[ast.stmt]]
    codes: frozenset[CodeType] | None  # None for a notebook, whose cells never change

    def has(self, functions: Iterable[FunctionType]) -> bool:
        return self.codes is None or self.codes.issuperset(f.__code__ for f in functions)


@functools.cache
def _read(path: str) -> _Source:
    linecache.checkcache(path)
    text = "".join(linecache.getlines(path))
    try:
        tree = ast.parse(text)
        code = compile(text, path, "exec", dont_inherit=True) if Path(path).exists() else None
    except SyntaxError:
        raise UsageError(CHANGED.format(path=path)) from None
    statements = defaultdict[str, list[ast.stmt]](list)
    for node in ast.walk(tree):
        if isinstance(node, DEFINITIONS):
            statements[node.name].append(node)
    for statement in tree.body:
        if _acts(statement):
            statements[""].append(statement)
        if isinstance(statement, DEFINITIONS):
            continue
        targets = getattr(statement, "targets", [])  # of an assignment, also to an attribute
        names = {node.id for t in targets for node in ast.walk(t) if isinstance(node, ast.Name)}
        for node in ast.walk(statement):
            if isinstance(node, IMPORTS):
                for alias in node.names:
                    statements[alias.asname or alias.name.partition(".")[0]].append(node)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                names.add(node.id)
            elif isinstance(node, ast.Lambda):
                names.add("<lambda>")
        for name in names:
            statements[name].append(statement)
    return _Source(statements, frozenset(_codes(code)) if code else None)


forget_sources = _read.cache_clear


def _codes(code: CodeType) -> Iterator[CodeType]:
    """Iterate over a code object and all within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


@functools.cache
def _names(statement: ast.stmt) -> tuple[set[str], set[str]]:
    """Return the global names that a statement uses, and attributes of anything."""
    names, attributes = set[str](), set[str]()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            names.add(node.id)
        elif isinstance(node, ast.Attribute):
            attributes.add(node.attr)
    codes = _codes(compile(ast.Module([statement], []), "", "exec"))
    return names & {name for code in codes for name in code.co_names}, attributes


def _text_of(node: Any) -> str:
    """Write a syntax tree without docstrings, positions and what only some Pythons have."""
    if isinstance(node, list):
        return f"[{', '.join(_text_of(each) for each in node if not _is_text(each))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = [(name, getattr(node, name, None)) for name in node._fields]
    shown = [f"{name}={_text_of(value)}" for name, value in fields if value not in (None, [])]
    return f"{type(node).__name__}({', '.join(shown)})"


def _is_literal(value: Any) -> bool:
    """Whether a value is made of numbers, strings and containers alone."""
    try:
        return bool(ast.literal_eval(repr(value)) == value)
    except (SyntaxError, ValueError):
        return False


def _is_text(node: Any) -> bool:
    """Whether a statement is a string alone, as a docstring is."""
    constant = node.value if isinstance(node, ast.Expr) else None
    return isinstance(constant, ast.Constant) and isinstance(constant.value, str)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
