"""Generates ``trio_codex.wire`` and ``trio_codex._api.generated`` from the JSON Schema that the pinned binary prints.

A development tool: it is left out of the wheel. The way of a definition through it:

``schema`` (the vendored files, checked by hash) → ``patches`` (asserted corrections) → ``lower`` and ``methods`` (the
intermediate form of ``ir``, names from ``names``, judgements from ``tables``) → ``domains`` (which module it lives in) →
``emit_*`` (text, by way of ``render``) → ``output`` (formatted, written or compared).

Judgements are explicit tables with a reason, and whatever a table does not cover is a :class:`WiregenError`: a new
version of the schema stops the generator instead of changing the library silently.
"""

from __future__ import annotations


class WiregenError(Exception):
    """The schema holds something that a table of the generator does not cover, or that contradicts one."""
