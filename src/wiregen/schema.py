"""Load the vendored schema, verified and patched, or pin a new one from the installed binary."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from trio_codex.wire._schema.read import BUNDLE, Schema, flatten
from wiregen import WiregenError, patches

if TYPE_CHECKING:
    from collections.abc import Mapping

SCHEMA = Path(__file__).parent / "schema"
PINNED = SCHEMA / "PINNED.json"
FILES = {"experimental": f"experimental/{BUNDLE}.gz", "stable": f"stable/{BUNDLE}.gz"}
"""The vendored files. The checksums are those of the uncompressed output of the binary."""


@attrs.frozen(kw_only=True)
class Bundle:
    """A version of the schema."""

    version: str
    digest: str
    """The SHA-256 of the experimental bundle."""
    definitions: Schema
    """The experimental surface, which includes the stable one; patched."""
    stable: Schema
    """The stable surface, unpatched."""


def load() -> Bundle:
    """Load the vendored schema.

    Raises:
        WiregenError: A checksum differs from ``PINNED.json``, or a patch no longer applies.
    """
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    content: dict[str, Any] = {}
    for surface, name in FILES.items():
        data = gzip.decompress((SCHEMA / name).read_bytes())
        if hashlib.sha256(data).hexdigest() != pinned["sha256"][surface]:
            raise WiregenError(f"{name} is not the pinned file: run `python -m wiregen --pin`")
        content[surface] = _flatten(json.loads(data))
    patches.apply(content["experimental"])
    return Bundle(
        version=pinned["version"],
        digest=pinned["sha256"]["experimental"],
        definitions=Schema(content["experimental"]),
        stable=Schema(content["stable"]),
    )


def _flatten(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the two levels of definitions, where no name may have two meanings."""
    outer, inner = bundle["definitions"], bundle["definitions"]["v2"]
    for name in outer.keys() & inner.keys():
        if _meaning(outer[name]) != _meaning(inner[name]):
            raise WiregenError(f"there are two different definitions of {name}")
    return flatten(bundle)


def _meaning(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in {"$schema", "title"}}


def pin() -> str:
    """Vendor the schema that the installed binary prints, and return the version of the binary."""
    import codex_cli_bin  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

    binary: Path = codex_cli_bin.bundled_codex_path()
    hashes: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as scratch:
        # An empty home, so that the output does not depend on the user's configuration.
        env = {**os.environ, "HOME": scratch, "CODEX_HOME": scratch}
        text = subprocess.run(
            [binary, "--version"], env=env, check=True, capture_output=True, text=True
        ).stdout
        for surface, name in FILES.items():
            flags = ["--experimental"] if surface == "experimental" else []
            out = Path(scratch) / surface
            subprocess.run(
                [binary, "app-server", "generate-json-schema", *flags, "--out", out],
                env=env,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            data = (out / BUNDLE).read_bytes()
            hashes[surface] = hashlib.sha256(data).hexdigest()
            (SCHEMA / name).parent.mkdir(parents=True, exist_ok=True)
            (SCHEMA / name).write_bytes(gzip.compress(data, mtime=0))  # no time stamp: reproducible
    version = text.split()[-1]
    PINNED.write_text(json.dumps({"version": version, "sha256": hashes}, indent=2) + "\n", encoding="utf-8")
    return version
