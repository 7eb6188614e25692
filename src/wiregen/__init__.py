"""Generate ``trio_codex.wire`` and ``trio_codex._api.generated`` from the JSON Schema that the pinned binary prints.

A development tool, not part of the wheel. It uses the reader and the representation in
``trio_codex.wire._schema``, which ``trio-codex doctor --schema`` shares. The pipeline:

``schema`` (vendored files, verified by checksum) → ``patches`` (asserted corrections) → ``trio_codex.wire._schema.read`` →
``methods`` and ``lower`` (Python names from ``names``, decisions from ``tables``) → ``domains`` (a module for each
definition) → ``emit_*`` (source text, with ``render``) → ``output`` (formatted, then written or compared).

Decisions are explicit tables with reasons. Anything that no table covers raises :class:`WiregenError`, so a new version of
the schema stops the generator instead of changing the library silently.
"""

from __future__ import annotations


class WiregenError(Exception):
    """The schema contains something that no table of the generator covers, or that contradicts one."""
