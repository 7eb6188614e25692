"""The pipeline from the vendored schema to source text."""

from __future__ import annotations

from wiregen import (
    domains,
    elisions,
    emit_api,
    emit_faces,
    emit_tables,
    emit_types,
    lower,
    methods,
    output,
    patches,
    schema,
)
from wiregen.protocol import Protocol


def build() -> Protocol:
    """Read and lower the vendored schema.

    Raises:
        WiregenError: A table does not cover the schema.
    """
    bundle = schema.load()
    patches.check(bundle.definitions, bundle.history)
    tables = methods.build(bundle)
    definitions = lower.lower(bundle, tables)
    elisions.check(definitions)
    return Protocol(
        version=bundle.version,
        digest=bundle.digest,
        definitions=definitions,
        methods=tables,
        home=domains.assign(definitions, tables),
    )


def generate() -> dict[str, str]:
    """Return the formatted text of every generated file, by its path below ``trio_codex``."""
    protocol = build()
    header = f"{output.MARK} from the schema of codex {protocol.version} (sha256 {protocol.digest[:16]}…); do not edit."
    files = {
        "_api/generated.py": emit_api.emit(protocol, header),
        "wire/_index.py": emit_tables.emit_index(protocol, header),
        "wire/_registry.py": emit_tables.emit_registry(protocol, header),
        **{f"wire/{module}.py": text for module, text in emit_types.emit(protocol, header).items()},
    }
    return output.formatted({**files, **emit_faces.emit(output.PROJECT / "src" / "trio_codex", files)})
