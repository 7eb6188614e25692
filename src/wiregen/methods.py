"""Build the method tables from the envelopes of the schema and from :mod:`wiregen.tables`."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_args

import attrs

from trio_codex.wire._schema import ir
from wiregen import WiregenError, tables

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from trio_codex.wire._schema.read import Schema
    from wiregen.protocol import Methods
    from wiregen.schema import Bundle


def build(bundle: Bundle) -> Methods:
    """Build all method tables.

    Raises:
        WiregenError: A table mentions a method that the schema does not have, or a type cannot be found.
    """
    methods = {table: dict(_rows(bundle, table)) for table in get_args(ir.Table)}
    notifications = methods["ServerNotification"]
    if found := sorted(notifications.keys() & tables.UNLISTED.keys()):
        raise WiregenError(f"the schema lists {', '.join(found)} now: remove them from tables.UNLISTED")
    _require("UNLISTED", tables.UNLISTED.values(), bundle.definitions)
    for name, params in tables.UNLISTED.items():
        notifications[name] = ir.Method(name=name, params=ir.Ref(params))
    for method in (*methods["ServerRequest"].values(), *notifications.values()):
        if method.params == ir.NONE:
            raise WiregenError(f"{method.name} has no params")
    _check(methods, bundle.definitions)
    return methods


def _rows(bundle: Bundle, table: ir.Table) -> Iterator[tuple[str, ir.Method]]:
    """Read a table, and add results to requests."""
    stable = bundle.stable.methods(table)
    for name, method in bundle.definitions.methods(table).items():
        params = _params(name, method.params)
        result = _result(name, params, bundle.definitions) if table.endswith("Request") else None
        since = bundle.history.since.get(name)
        yield (
            name,
            attrs.evolve(method, params=params, result=result, experimental=name not in stable, since=since),
        )


def _params(method: str, type_: ir.Type) -> ir.Type:
    """Return the params type: a definition, or null. Where both are allowed, it is the definition."""
    match type_:
        case ir.NONE | ir.Ref():
            return type_
        case ir.Union((ir.Ref() as params, ir.NONE)):
            return params
        case _:
            raise WiregenError(f"the params of {method} are neither a definition nor null: {type_}")


def _result(method: str, params: ir.Type, definitions: Schema) -> str:
    if method in tables.RESULTS:
        result = tables.RESULTS[method]
    elif isinstance(params, ir.Ref) and params.name.endswith("Params"):
        result = f"{params.name.removesuffix('Params')}Response"
    else:
        raise WiregenError(f"{method} needs a row in tables.RESULTS")
    if result not in definitions:
        raise WiregenError(f"the result of {method} should be {result}, which the schema does not have")
    return result


def _check(methods: Methods, definitions: Schema) -> None:
    """Check every table against the schema."""
    known = methods["ClientRequest"]
    _require("DEFERRED", tables.DEFERRED, known)
    _require("CONTROL", tables.CONTROL, known)
    _require("RESULTS", tables.RESULTS, known)
    payloads = methods["ServerNotification"]
    _require("TEXT_DELTAS", tables.TEXT_DELTAS, payloads)
    _require("NOT_TEXT_DELTAS", tables.NOT_TEXT_DELTAS, payloads)
    for method, (text, key) in tables.TEXT_DELTAS.items():
        (name,) = ir.refs(payloads[method])
        payload = definitions[name]
        types = {field.wire: field.type for field in payload.fields} if isinstance(payload, ir.Class) else {}
        _require(f"TEXT_DELTAS[{method!r}]", (text, *key), types)
        if types[text] != ir.STR:
            raise WiregenError(f"{text} of {method} is not a string")
    deltas = {method for method in payloads if "delta" in method.lower()}
    if unjudged := deltas - tables.TEXT_DELTAS.keys() - tables.NOT_TEXT_DELTAS.keys():
        raise WiregenError(
            f"{', '.join(sorted(unjudged))} must be in tables.TEXT_DELTAS or tables.NOT_TEXT_DELTAS"
        )


def _require(table: str, names: Iterable[str], known: Collection[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise WiregenError(f"{table} mentions {', '.join(unknown)}, which the schema does not have")
