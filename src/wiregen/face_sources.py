"""Parse the source of the Trio API, from which the stubs of the faces are derived."""

from __future__ import annotations

import ast
from typing import TYPE_CHECKING

import attrs

from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

Function = ast.FunctionDef | ast.AsyncFunctionDef


@attrs.define
class Module:
    """A parsed module: its definitions, and the origin of the names that it imports."""

    name: str
    body: Mapping[str, ast.stmt]
    imports: Mapping[str, tuple[str, str | None]]

    @classmethod
    def parse(cls, name: str, text: str) -> Module:
        """Parse the source of a module."""
        body: dict[str, ast.stmt] = {}
        imports: dict[str, tuple[str, str | None]] = {}
        tree = ast.parse(text)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module is not None:
                imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
            elif isinstance(node, ast.Import):
                imports |= {alias.name: (alias.name, None) for alias in node.names}
        for node in tree.body:
            if isinstance(node, ast.ClassDef | Function):
                body[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name):
                    body[target.id] = node
        return cls(name, body, imports)


class Sources:
    """The modules of the package, each parsed once.

    Args:
        root: The directory of the package.
        fresh: Generated modules that are not on disk yet, by path.
    """

    def __init__(self, root: Path, fresh: Mapping[str, str]) -> None:
        self._root = root
        self._fresh = fresh
        self._modules: dict[str, Module] = {}

    def module(self, name: str) -> Module:
        """Return a module by its dotted name."""
        if name not in self._modules:
            relative = "/".join(name.split(".")[1:])
            path = f"{relative}.py" if relative else "__init__.py"
            if (self._root / relative / "__init__.py").is_file():
                path = f"{relative}/__init__.py".lstrip("/")
            text = self._fresh.get(path) or (self._root / path).read_text(encoding="utf-8")
            self._modules[name] = Module.parse(name, text)
        return self._modules[name]

    def docstring(self, name: str) -> str:
        """Return the docstring of one of a face's own modules."""
        path = self._root / f"{name}.py"
        return ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""

    def home(self, module: str, name: str) -> str:
        """Return the module that defines a name, which a package may only re-export."""
        source = self.module(module)
        theirs = source.imports.get(name, ("", None))[0]
        if name in source.body or module == "trio_codex" or not theirs.startswith("trio_codex."):
            return module
        return self.home(theirs, name)

    def exported(self, package: str) -> dict[str, str]:
        """Return the public names that a package re-exports from this project, with the modules that define them."""
        return {
            name: self.home(source[0], name)
            for name, source in self.module(package).imports.items()
            if source[0].startswith("trio_codex") and not name.startswith("_")
        }

    def handles(self, package: str) -> dict[str, str]:
        """Return the exported names that are handle classes, with their modules."""
        return {name: home for name, home in self.exported(package).items() if self._is_handle(home, name)}

    def _is_handle(self, module: str, name: str) -> bool:
        if not isinstance(self.module(module).body.get(name), ast.ClassDef):
            return False
        return any(
            isinstance(member, ast.AsyncFunctionDef)
            for _, node in self.lineage(module, name)
            for member in node.body
        )

    def lineage(self, module: str, name: str) -> Iterator[tuple[Module, ast.ClassDef]]:
        """Yield a class and its base classes in this package, except those that the stub contains anyway."""
        source = self.module(module)
        node = source.body[name]
        if not isinstance(node, ast.ClassDef):
            raise WiregenError(f"{module}.{name} is not a class")
        yield source, node
        for base in node.bases:
            base_name = ast.unparse(base).partition("[")[0]
            home = source.imports.get(base_name, (module if base_name in source.body else "", base_name))
            if home[0].startswith("trio_codex") and base_name not in ("Policy", "Generic"):
                yield from self.lineage(home[0], home[1] or base_name)


def attributes_of(node: ast.ClassDef) -> Iterator[tuple[str, ast.expr]]:
    """Yield the public attributes of an object that its class declares or sets, with their types."""
    declared: dict[str, ast.expr] = {}
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            declared[statement.target.id] = statement.annotation
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            arguments = [*statement.args.args, *statement.args.kwonlyargs]
            types = {argument.arg: argument.annotation for argument in arguments}
            for inner in ast.walk(statement):
                target = inner.targets[0] if isinstance(inner, ast.Assign) else getattr(inner, "target", None)
                if not isinstance(target, ast.Attribute) or ast.unparse(target.value) != "self":
                    continue
                if (annotation := _type_of(inner, types)) is not None:
                    declared.setdefault(target.attr, annotation)
    for name, annotation in declared.items():
        if not name.startswith("_") and "ClassVar" not in ast.unparse(annotation) and name != "on_overflow":
            yield name, annotation


def _type_of(assignment: ast.AST, arguments: Mapping[str, ast.expr | None]) -> ast.expr | None:
    annotation = assignment.annotation if isinstance(assignment, ast.AnnAssign) else None
    if annotation is not None and ast.unparse(annotation) != "Final":
        return annotation
    value = getattr(assignment, "value", None)
    if isinstance(value, ast.Name):
        return arguments.get(value.id)
    is_time = isinstance(value, ast.Call) and ast.unparse(value) == "trio.current_time()"
    return ast.Name("float") if is_time else annotation
