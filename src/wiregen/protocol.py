"""The input of the emitters: lowered definitions, method tables, and the module of each definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from trio_codex.wire._schema import ir


Methods: TypeAlias = "Mapping[ir.Table, Mapping[str, ir.Method]]"
"""The method tables, with results. The params of each method are a reference to a definition, or null."""


@attrs.frozen(kw_only=True)
class Protocol:
    """A version of the protocol."""

    version: str
    digest: str
    definitions: Mapping[str, ir.Definition]
    methods: Methods
    home: Mapping[str, str]
    """The module of each definition."""
