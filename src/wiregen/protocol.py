"""What the emitters work from: lowered definitions, method tables, and the module of each definition."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import attrs

from trio_codex.wire._schema import ir
from wiregen import WiregenError

if TYPE_CHECKING:
    from collections.abc import Mapping


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

    def class_(self, name: str) -> ir.Class:
        """Return a definition that must be a class.

        Raises:
            WiregenError: It is not a class.
        """
        found = self.definitions[name]
        if not isinstance(found, ir.Class):
            raise WiregenError(f"{name} is not a class")
        return found
