"""The operations of mutation testing: changes to a function of the library, located in its syntax tree.

An operation names the kind of node that it changes (a statement, a condition, a call …) and what the node mentions:
identifiers, attributes, keyword arguments and string constants. It therefore survives formatting, moved lines, and
renamed variables that it does not mention. It must match exactly one node of the function. If matching nodes are
nested, the innermost one counts.

The replacement is source code, in which ``_`` stands for the original node.
"""

import ast
import difflib
from collections.abc import Callable

import attrs

FUNCTIONS = ast.FunctionDef | ast.AsyncFunctionDef
DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


class DoesNotApplyError(Exception):
    """A mutation names a function that does not exist, or its target is missing or ambiguous."""


@attrs.frozen
class Place:
    """The place of a node: a field of its parent, and an index if the field is a list."""

    parent: ast.AST
    field: str
    index: int | None = None

    @property
    def node(self):
        found = getattr(self.parent, self.field)
        return found if self.index is None else found[self.index]

    def replace(self, *nodes):
        if self.index is None:
            (node,) = nodes
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.index : self.index + 1] = nodes


@attrs.frozen
class Operation:
    """A change to one place.

    Attributes:
        kind: What is changed, for messages.
        mentions: Names and strings that the place must mention.
        becomes: The source code that replaces it.
        candidates: Lists all places of this kind in a syntax tree.
    """

    kind: str
    mentions: tuple[str, ...]
    becomes: str
    candidates: Callable = attrs.field(repr=False)

    def apply(self, scope):
        """Change the one matching place in ``scope``.

        Raises:
            DoesNotApplyError: No place matches, or several do.
        """
        places = list(self.candidates(scope))
        matching = [place for place in places if {*self.mentions} <= names_in(place.node)]
        innermost = [place for place in matching if not any(_contains(place, other) for other in matching)]
        if len(innermost) != 1:
            mentioning = " and ".join(map(repr, self.mentions))
            wanted = f"{self.kind} that mentions {mentioning}" if mentioning else self.kind
            shown = sorted((place.node.lineno, ast.unparse(place.node)) for place in innermost or places)
            raise DoesNotApplyError(
                f"there must be exactly one {wanted}, not {len(innermost)};"
                f" the {'matches' if innermost else 'candidates'} are:"
                + ("".join(f"\n    {text.splitlines()[0]}  (line {line})" for line, text in shown) or " none")
            )
        (place,) = innermost
        place.replace(*self._replacement(place.node))

    def _replacement(self, old):
        statements = ast.parse(self.becomes).body
        if isinstance(old, ast.stmt):
            module = _Insert(old).visit(ast.Module(statements, []))
            return module.body
        (statement,) = statements
        return [_Insert(old).visit(statement.value)]


class _Insert(ast.NodeTransformer):
    """Replace ``_`` with the original node."""

    def __init__(self, old):
        self._old = old

    def visit_Expr(self, node):
        if isinstance(self._old, ast.stmt) and isinstance(node.value, ast.Name) and node.value.id == "_":
            return self._old
        return self.generic_visit(node)

    def visit_Name(self, node):
        return self._old if node.id == "_" and isinstance(self._old, ast.expr) else node


# -- the operations --------------------------------------------------------------------------------------------------


def statement(*mentions, becomes):
    """Replace a simple statement."""
    return Operation("statement", mentions, becomes, _statements)


def drop(*mentions):
    """Remove a simple statement."""
    return statement(*mentions, becomes="pass")


def condition(*mentions, becomes):
    """Replace the condition of an ``if``, a ``while``, a conditional expression or a comprehension."""
    return Operation("condition", mentions, becomes, _conditions)


def never(*mentions):
    """Make a condition false."""
    return condition(*mentions, becomes="False")


def always(*mentions):
    """Make a condition true."""
    return condition(*mentions, becomes="True")


def operand(*mentions, becomes="False"):
    """Replace an operand of ``and`` or ``or``."""
    return Operation("operand", mentions, becomes, _fields((ast.BoolOp, "values")))


def iterable(*mentions, becomes="()"):
    """Replace the iterable of a loop or a comprehension."""
    return Operation(
        "iterable", mentions, becomes, _fields((ast.For | ast.AsyncFor | ast.comprehension, "iter"))
    )


def returns(becomes, *mentions):
    """Replace the value of a ``return``."""
    return Operation("returned value", mentions, becomes, _fields((ast.Return, "value")))


def value(target, becomes):
    """Replace the value that an assignment or a ``with`` binds to a variable or an attribute."""
    return Operation(f"value of {target!r}", (), becomes, lambda scope: _bindings(scope, target))


def call(*mentions, becomes):
    """Replace a call."""
    return Operation("call", mentions, becomes, lambda scope: _expressions(scope, ast.Call))


def keyword(name, becomes):
    """Replace the value of a keyword argument."""
    return Operation(
        f"keyword argument {name!r}",
        (),
        becomes,
        lambda scope: (place for place in _fields((ast.keyword, "value"))(scope) if place.parent.arg == name),
    )


def read(name, becomes):
    """Replace an expression that reads a variable or an attribute."""
    return Operation(
        f"use of {name!r}",
        (),
        becomes,
        lambda scope: (
            place
            for place in _expressions(scope, ast.Name | ast.Attribute)
            if _last_name(place.node) == name and isinstance(place.node.ctx, ast.Load)
        ),
    )


def constant(old, new):
    """Replace a constant."""
    return Operation(
        f"constant {old!r}",
        (),
        repr(new),
        lambda scope: (
            place for place in _expressions(scope, ast.Constant) if repr(place.node.value) == repr(old)
        ),
    )


def catches(old, new):
    """Make an ``except`` clause catch another exception."""
    return Operation("exception caught", (old,), new, _fields((ast.ExceptHandler, "type")))


def start(code):
    """Add statements to the beginning of a function, or of a module."""
    return _Start(code)


def without_key(key):
    """Remove an entry from a dictionary literal."""
    return _WithoutKey(key)


@attrs.frozen
class _Start:
    code: str

    def apply(self, scope):
        after = sum(
            (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
            or (isinstance(node, ast.ImportFrom) and node.module == "__future__")
            for node in scope.body[:2]
        )  # fmt: skip
        scope.body[after:after] = ast.parse(self.code).body


@attrs.frozen
class _WithoutKey:
    key: object

    def apply(self, scope):
        found = [
            (node, index)
            for node in ast.walk(scope)
            if isinstance(node, ast.Dict)
            for index, key in enumerate(node.keys)
            if key is not None and ast.unparse(key) == repr(self.key)
        ]
        if len(found) != 1:
            raise DoesNotApplyError(
                f"there must be exactly one dictionary with the key {self.key!r}, not {len(found)}"
            )
        ((node, index),) = found
        del node.keys[index], node.values[index]


# -- places ----------------------------------------------------------------------------------------------------------


def _fields(*kinds):
    """Return a function that lists the children in these fields of these node types."""

    def candidates(scope):
        for node in ast.walk(scope):
            for type_, field in kinds:
                if isinstance(node, type_):
                    yield from _places(node, field)

    return candidates


def _places(node, field):
    found = getattr(node, field)
    if isinstance(found, list):
        yield from (Place(node, field, index) for index in range(len(found)))
    elif found is not None:
        yield Place(node, field)


_conditions = _fields((ast.If | ast.While | ast.IfExp, "test"), (ast.comprehension, "ifs"))


def _statements(scope):
    for node in ast.walk(scope):
        for field in ("body", "orelse", "finalbody"):
            if isinstance(getattr(node, field, None), list):
                for place in _places(node, field):
                    if not hasattr(place.node, "body") and not isinstance(place.node, ast.Match):
                        yield place


def _expressions(scope, type_):
    for node in ast.walk(scope):
        for field in node._fields:
            for place in _places(node, field) if hasattr(node, field) else ():
                if isinstance(place.node, type_):
                    yield place


def _bindings(scope, target):
    for node in ast.walk(scope):
        match node:
            case ast.Assign(targets=targets):
                field = "value"
            case ast.AnnAssign(target=bound) | ast.AugAssign(target=bound) | ast.NamedExpr(target=bound):
                targets, field = [bound], "value"
            case ast.withitem(optional_vars=bound) if bound is not None:
                targets, field = [bound], "context_expr"
            case _:
                continue
        if getattr(node, field) is not None and target in map(_last_name, targets):
            yield Place(node, field)


def _last_name(node):
    return getattr(node, "attr", None) or getattr(node, "id", None)


def names_in(tree):
    """Return the identifiers, attributes, keyword arguments and string constants in a piece of code."""
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.Constant(value=str(text)):
                found.add(text)
            case ast.keyword(arg=str(text)):
                found.add(text)
    return found


def _contains(outer, inner):
    return outer.node is not inner.node and any(node is inner.node for node in ast.walk(outer.node))


# -- functions -------------------------------------------------------------------------------------------------------


def mutated(package, where, operation):
    """Return the file of a module, and its source after the operation.

    Args:
        package: The directory of the package.
        where: A module below it and a function or variable in it, such as ``_process.server:ServerProcess.stop``.
            Without the colon, the module itself.
        operation: The change.

    Raises:
        DoesNotApplyError: The operation cannot be applied; the message says why.
    """
    module, _, qualified_name = where.partition(":")
    path = package.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    try:
        tree = ast.parse(path.read_text())
    except FileNotFoundError:
        raise DoesNotApplyError(f"{where}: no such module{_hint(package, where)}") from None
    scope = tree
    for part in qualified_name.split(".") if qualified_name else ():
        found = [node for node in scope.body if part in _names_defined_by(node)]
        if len(found) != 1:
            raise DoesNotApplyError(
                f"{where}: {part!r} is defined {len(found)} times there{_hint(package, where)}"
            )
        (scope,) = found
    before = ast.unparse(tree)
    try:
        operation.apply(scope)
    except DoesNotApplyError as exc:
        raise DoesNotApplyError(f"{where}: {exc}") from None
    after = ast.unparse(ast.fix_missing_locations(tree))
    if after == before:
        raise DoesNotApplyError(f"{where}: {operation} changes nothing")
    return path, after


def _names_defined_by(node):
    if isinstance(node, DEFINITIONS):
        is_overload = any(_last_name(decorator) == "overload" for decorator in node.decorator_list)
        return () if is_overload else (node.name,)
    if isinstance(node, ast.Assign | ast.AnnAssign):
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        return tuple(name for target in targets if (name := _last_name(target)) is not None)
    return ()


def _hint(package, where):
    """Return a hint for the message: where the name is defined now, best guess first."""
    found = []
    wanted = where.rpartition(":")[2].rpartition(".")[2]
    for path in package.rglob("*.py"):
        module = ".".join(path.relative_to(package).with_suffix("").parts).removesuffix(".__init__")
        for node, qualified_name in _definitions(ast.parse(path.read_text()).body):
            if wanted in _names_defined_by(node):
                found.append(f"{module}:{qualified_name}")
    found.sort(key=lambda name: difflib.SequenceMatcher(None, where, name).ratio(), reverse=True)
    return (
        f"; this name is now defined as {', '.join(found[:3])}" if found else f"; nothing is named {wanted!r}"
    )


def _definitions(body, prefix=""):
    for node in body:
        for defined in _names_defined_by(node):
            yield node, prefix + defined
        if isinstance(node, DEFINITIONS):
            yield from _definitions(node.body, f"{prefix}{node.name}.")


@attrs.frozen
class Mutation:
    """One mutation.

    Attributes:
        guarantee: The number of the broken guarantee.
        what: How the mutated code misbehaves.
        where: A module below ``trio_codex`` and a function or variable in it, such as ``_link.calls:Calls.end``.
        operation: The change.
        test: The test that must fail.
        needs: An optional module without which the test cannot run.
    """

    guarantee: str
    what: str
    where: str
    operation: object
    test: str
    needs: str | None = None

    def apply(self, root):
        """Apply the mutation to the copy of the tree below ``root``."""
        path, source = mutated(root / "src" / "trio_codex", self.where, self.operation)
        path.write_text(source)
