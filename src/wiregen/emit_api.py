"""``trio_codex._api.generated``: one typed coroutine for each client request."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from trio_codex.wire._schema import ir
from wiregen import WiregenError, names, tables
from wiregen.render import docstring, entry, field_doc, notes, quote, type_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wiregen.protocol import Protocol

_RESERVED = frozenset({"self", "wire", "cast"})
"""Names that the generated coroutines use, so that no parameter may shadow them."""


def emit(protocol: Protocol, header: str) -> str:
    """Emit the module."""
    groups: dict[str | None, list[ir.Method]] = {}
    for request in protocol.methods["ClientRequest"].values():
        group, _ = names.method_name(request.name)
        groups.setdefault(group, []).append(request)
    lines = [
        header,
        '"""One coroutine for each client request, grouped by the first segment of its method."""',
        "",
        "from __future__ import annotations",
        "",
        "from collections.abc import Mapping, Sequence",
        "from functools import cached_property",
        "from typing import cast",
        "",
        "from trio_codex import wire",
        "from trio_codex._api.method_groups import Group",
        "from trio_codex._api.method_groups import TypedRequest as TypedRequest",
        "",
    ]
    named = {group: requests for group, requests in groups.items() if group is not None}
    for group, requests in sorted(named.items()):
        prefix = requests[0].name.partition("/")[0]
        lines += ["", f"class {_class_name(group)}(Group):"]
        lines += [f'    """Requests with the prefix ``{prefix}/``."""', ""]
        lines += _methods(protocol, requests)
    lines += ["", "class Api(Group):", '    """Every client request, as a typed coroutine."""', ""]
    for group, requests in sorted(named.items()):
        prefix = requests[0].name.partition("/")[0]
        lines += [
            "    @cached_property",
            f"    def {group}(self) -> {_class_name(group)}:",
            f'        """Requests with the prefix ``{prefix}/``."""',
            f"        return {_class_name(group)}(self._request)",
            "",
        ]
    direct = groups.get(None, [])
    if clash := {names.method_name(request.name)[1] for request in direct} & named.keys():
        raise WiregenError(f"{clash} is both a group and a method: see names.FLAT_GROUPS")
    return "\n".join([*lines, *_methods(protocol, direct)])


def _class_name(group: str) -> str:
    return "".join(word.capitalize() for word in group.split("_")) + "Api"


def _methods(protocol: Protocol, requests: list[ir.Method]) -> Iterator[str]:
    taken: set[str] = set()
    for request in requests:
        _, name = names.method_name(request.name)
        if name in taken:
            raise WiregenError(f"two methods map to the name {name}")
        taken.add(name)
        yield from _Method.of(protocol, request).write(name)


@attrs.frozen(kw_only=True)
class _Method:
    """The parts of one coroutine."""

    request: ir.Method
    result: str
    summary: str
    parameters: list[str]
    arguments: str
    sections: list[str]

    @classmethod
    def of(cls, protocol: Protocol, request: ir.Method) -> _Method:
        """Derive the signature from the params type."""
        definitions = protocol.definitions
        params = definitions[request.params.name] if isinstance(request.params, ir.Ref) else None
        parameters: list[str] = ["self"]
        described: list[str] = []
        if params is None:
            arguments = "None"
        elif isinstance(params, ir.Class):
            if params.fields:
                parameters.append("*")
            for field in params.fields:
                parameters.append(_parameter(request, field, protocol))
                if field_doc(field):
                    described.append(entry(field.name, field_doc(field)))
            given = ", ".join(f"{field.name}={field.name}" for field in params.fields)
            arguments = f"wire.{params.name}({given})"
        else:
            parameters += [f"params: {type_text(ir.Ref(params.name), definitions, prefix='wire.')}", "/"]
            described.append(entry("params", f"A variant of `wire.{params.name}`."))
            arguments = "params"
        result_text = type_text(ir.Ref(str(request.result)), definitions, prefix="wire.")
        return cls(
            request=request,
            result=result_text,
            summary=_summary(request, params),
            parameters=parameters,
            arguments=arguments,
            sections=["\n".join(["Args:", *described])] if described else [],
        )

    def write(self, name: str) -> Iterator[str]:
        """Emit the coroutine."""
        method = self.request.name
        remarks = [
            notes(self.request),
            f"Sends ``{method}``." if self.summary else "",
            "This is a checkpoint.",
        ]
        if method in tables.DEFERRED:
            remarks.append("The response may take arbitrarily long, so ``request_timeout`` does not apply.")
        yield f"    async def {name}({', '.join(self.parameters)}) -> {self.result}:"
        yield from docstring(
            self.summary or f"Send `{method}`.",
            " ".join(filter(None, remarks)),
            *self.sections,
            "\n".join(["Raises:", *(entry(name, text) for name, text in self._errors())]),
            indent=8,
        )
        yield f"        return cast({quote(self.result)}, await self._request({quote(method)}, {self.arguments}))"
        yield ""

    def _errors(self) -> Iterator[tuple[str, str]]:
        yield "RpcError", "The server rejected the request."
        if self.request.since is not None:
            yield "UnsupportedMethod", f"The server is older than {self.request.since}; nothing was sent."
        if self.request.name not in tables.DEFERRED:
            yield (
                "RequestTimeout",
                "The server did not answer within ``request_timeout``. It may still act on the request.",
            )
        if len(self.parameters) > 1:
            yield "LocalProtocolError", "The params are not JSON; nothing was sent."
        yield "RemoteProtocolError", "The response cannot be read."
        yield "ConnectionBroken", "The connection ended first."
        yield "ConnectionClosed", "You closed the connection."


def _summary(request: ir.Method, params: ir.Definition | None) -> str:
    if request.doc and request.doc not in tables.NO_DESCRIPTIONS:
        return request.doc
    return "" if params is None else params.doc


def _parameter(request: ir.Method, field: ir.Field, protocol: Protocol) -> str:
    if field.name in _RESERVED:
        raise WiregenError(f"{request.name} has a parameter {field.name}, which shadows a name in its body")
    text = f"{field.name}: {type_text(field.type, protocol.definitions, prefix='wire.')}"
    if field.default is ir.MISSING:
        return text
    if field.default is not None:
        raise WiregenError(
            f"{request.name} has a default for {field.name}: only the server applies defaults of params"
        )
    return f"{text} = None"
