"""Load the vendored schema, verified and patched, or pin that of another binary."""

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

from trio_codex.binary import check_version
from trio_codex.wire._schema.read import BUNDLE, Schema, flatten
from wiregen import WiregenError, binaries, history, patches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wiregen.history import History

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
    history: History
    """The history, which shows what earlier releases lack."""


def load() -> Bundle:
    """Load the vendored schema.

    Raises:
        WiregenError: A checksum differs from ``PINNED.json``, or a patch no longer applies.
    """
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    content: dict[str, Any] = {}
    for surface, name in FILES.items():
        data = _read(surface)
        if hashlib.sha256(data).hexdigest() != pinned["sha256"][surface]:
            raise WiregenError(f"{name} is not the pinned file: run `python -m wiregen --pin`")
        content[surface] = _flatten(json.loads(data))
    patches.apply(content["experimental"])
    return Bundle(
        version=pinned["version"],
        digest=pinned["sha256"]["experimental"],
        definitions=Schema(content["experimental"]),
        stable=Schema(content["stable"]),
        history=history.load(),
    )


def _flatten(bundle: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the two levels of definitions, and check that no name has two meanings."""
    outer, inner = bundle["definitions"], bundle["definitions"]["v2"]
    for name in outer.keys() & inner.keys():
        if _meaning(outer[name]) != _meaning(inner[name]):
            raise WiregenError(f"there are two different definitions of {name}")
    return flatten(bundle)


def _meaning(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in {"$schema", "title"}}


def pin(source: str) -> str:
    """Vendor the schema of a release, or of the binary at a path, and record what differs from the previous one.

    Returns:
        The version of the binary.

    Raises:
        WiregenError: The binary cannot be fetched, does not print its schema, or is older than the pinned one: the
            history would list the additions of later releases as removals.
    """
    with binaries.opened(source) as binary:
        version, printed = _print(binary)
    pinned = json.loads(PINNED.read_text(encoding="utf-8"))
    if check_version(version, (pinned["version"], pinned["version"])) == "older":
        raise WiregenError(
            f"codex {version} is older than the pinned {pinned['version']}: pin newer releases, oldest first"
        )
    names = [
        history.names(Schema(_flatten(json.loads(data))))
        for data in (_read("experimental"), printed["experimental"])
    ]
    if version != pinned["version"]:
        history.save(history.load().extended(version, *names))
    for surface, data in printed.items():
        (SCHEMA / FILES[surface]).write_bytes(gzip.compress(data, mtime=0))  # no time stamp: reproducible
    hashes = {surface: hashlib.sha256(data).hexdigest() for surface, data in printed.items()}
    PINNED.write_text(json.dumps({"version": version, "sha256": hashes}, indent=2) + "\n", encoding="utf-8")
    return version


def _read(surface: str) -> bytes:
    return gzip.decompress((SCHEMA / FILES[surface]).read_bytes())


def _print(binary: Path) -> tuple[str, dict[str, bytes]]:
    """Run a binary to print its version and both surfaces of its schema."""
    with tempfile.TemporaryDirectory() as scratch:
        # An empty home, so that the output does not depend on the user's configuration.
        env = {**os.environ, "HOME": scratch, "CODEX_HOME": scratch}

        def run(*arguments: str | Path) -> str:
            try:
                return subprocess.run(
                    [binary, *arguments], env=env, check=True, capture_output=True, text=True
                ).stdout
            except (OSError, subprocess.CalledProcessError) as error:
                problem = getattr(error, "stderr", None) or error
                raise WiregenError(f"{binary} does not print its schema: {problem}") from error

        version = run("--version").split()[-1]
        printed: dict[str, bytes] = {}
        for surface in FILES:
            flags = ["--experimental"] if surface == "experimental" else []
            out = Path(scratch) / surface
            run("app-server", "generate-json-schema", *flags, "--out", out)
            printed[surface] = (out / BUNDLE).read_bytes()
    return version, printed
