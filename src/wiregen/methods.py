"""The method tables: from the envelopes of the schema, and the judgements of :mod:`wiregen.tables`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio_codex.wire._schema import ir
from wiregen import WiregenError, tables
from wiregen.protocol import Methods, Notification, Request, ServerRequest

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from trio_codex.wire._schema.read import Schema
    from wiregen.schema import Bundle


def build(bundle: Bundle) -> Methods:
    """Build all method tables.

    Raises:
        WiregenError: A table mentions a method that the schema does not have, or a type cannot be found.
    """
    stable = bundle.stable.methods("ClientRequest")
    stable_server = bundle.stable.methods("ServerRequest")
    requests = tuple(
        Request(
            method=method,
            params=params,
            result=_result(method, params, bundle.definitions),
            doc=doc,
            experimental=method not in stable,
            deferred=method in tables.DEFERRED,
            control=method in tables.CONTROL,
        )
        for method, params, doc in _rows(bundle.definitions, "ClientRequest")
    )
    server_requests = tuple(
        ServerRequest(
            method=method,
            params=_present(method, params),
            response=_result(method, params, bundle.definitions),
            experimental=method not in stable_server,
        )
        for method, params, _ in _rows(bundle.definitions, "ServerRequest")
    )
    listed = {
        method: _present(method, params)
        for method, params, _ in _rows(bundle.definitions, "ServerNotification")
    }
    if found := sorted(listed.keys() & tables.UNLISTED.keys()):
        raise WiregenError(f"the schema lists {', '.join(found)} now: remove them from tables.UNLISTED")
    _require("UNLISTED", tables.UNLISTED.values(), bundle.definitions)
    notifications = tuple(
        Notification(method=method, params=params) for method, params in (listed | tables.UNLISTED).items()
    )
    client_notifications = tuple(
        Notification(method=method, params=params)
        for method, params, _ in _rows(bundle.definitions, "ClientNotification")
    )
    _check(requests, notifications, bundle.definitions)
    return Methods(
        requests=requests,
        server_requests=server_requests,
        notifications=notifications,
        client_notifications=client_notifications,
    )


def _rows(definitions: Schema, envelope: str) -> list[tuple[str, str | None, str]]:
    """Return the method, params type and description of each variant of an envelope."""
    return [
        (method, _params(method, found.params), found.doc)
        for method, found in definitions.methods(envelope).items()
    ]


def _params(method: str, type_: ir.Type) -> str | None:
    """Return the params type: a definition, possibly nullable (the client sends an object), or ``None``."""
    match type_:
        case ir.NONE:
            return None
        case ir.Ref(name) | ir.Union((ir.Ref(name), ir.NONE)):
            return name
        case _:
            raise WiregenError(f"the params of {method} are neither a definition nor null: {type_}")


def _present(method: str, params: str | None) -> str:
    if params is None:
        raise WiregenError(f"{method} has no params")
    return params


def _result(method: str, params: str | None, definitions: Schema) -> str:
    if method in tables.RESULTS:
        result = tables.RESULTS[method]
    elif params is not None and params.endswith("Params"):
        result = f"{params.removesuffix('Params')}Response"
    else:
        raise WiregenError(f"{method} needs a row in tables.RESULTS")
    if result not in definitions:
        raise WiregenError(f"the result of {method} should be {result}, which the schema does not have")
    return result


def _check(requests: Iterable[Request], notifications: Iterable[Notification], definitions: Schema) -> None:
    """Check every table against the schema."""
    known = {request.method for request in requests}
    _require("DEFERRED", tables.DEFERRED, known)
    _require("CONTROL", tables.CONTROL, known)
    _require("RESULTS", tables.RESULTS, known)
    payloads = {item.method: _present(item.method, item.params) for item in notifications}
    _require("TEXT_DELTAS", tables.TEXT_DELTAS, payloads)
    _require("NOT_TEXT_DELTAS", tables.NOT_TEXT_DELTAS, payloads)
    for method, (text, key) in tables.TEXT_DELTAS.items():
        payload = definitions[payloads[method]]
        types = {field.wire: field.type for field in payload.fields} if isinstance(payload, ir.Class) else {}
        _require(f"TEXT_DELTAS[{method!r}]", (text, *key), types)
        if types[text] != ir.STR:
            raise WiregenError(f"{text} of {method} is not a string")
    deltas = {method for method in payloads if "delta" in method.lower()}
    if unjudged := deltas - tables.TEXT_DELTAS.keys() - tables.NOT_TEXT_DELTAS.keys():
        raise WiregenError(f"text or not? {', '.join(sorted(unjudged))} is in neither table")


def _require(table: str, names: Iterable[str], known: Collection[str]) -> None:
    if unknown := [name for name in names if name not in known]:
        raise WiregenError(f"{table} mentions {', '.join(unknown)}, which the schema does not have")
