"""Hold copies of module files in memory, for modules that a session may need later.

A module imported in the middle of a session is read from disk. That fails once the package is upgraded, or when no
file descriptor is free. Importing everything at startup would cost more time and memory than most sessions need. So
the files are read at startup, and their code runs on first use.
"""

from __future__ import annotations

import struct
import sys
import zlib
from contextlib import suppress
from importlib import import_module
from importlib.machinery import PathFinder, SourceFileLoader
from importlib.util import MAGIC_NUMBER, LazyLoader, module_from_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class _HeldFileLoader(SourceFileLoader):
    """Loads one module from copies of its source and its bytecode."""

    def __init__(self, name: str, path: str, bytecode_path: str | None) -> None:
        super().__init__(name, path)
        self._stats = super().path_stats(path)
        self._files: dict[str, bytes] = {}
        if bytecode_path is not None:
            with suppress(OSError):  # not compiled yet
                bytecode = super().get_data(bytecode_path)
                self._files[bytecode_path] = zlib.compress(bytecode, 1)
                if _is_current(bytecode, self._stats):
                    return
        self._files[path] = zlib.compress(super().get_data(path), 1)

    def get_data(self, path: str) -> bytes:
        """Return the content of a file at the time it was copied. Raise ``OSError`` if it did not exist."""
        if path not in self._files:
            raise FileNotFoundError(path)
        return zlib.decompress(self._files[path])

    def path_stats(self, path: str) -> Mapping[str, float]:
        """Return the file status of the source at the time it was copied."""
        return self._stats

    def set_data(self, path: str, data: object, *, _mode: int = 0o666) -> None:
        """Do nothing: the files on disk may now belong to another version, so no bytecode is written."""


def _is_current(bytecode: bytes, stats: Mapping[str, float]) -> bool:
    """Return whether bytecode was compiled from a source file with this status, and can replace it."""
    stamp = (0, int(stats["mtime"]) & 0xFFFFFFFF, int(stats["size"]) & 0xFFFFFFFF)
    return bytecode[:16] == MAGIC_NUMBER + struct.pack("<3L", *stamp)


def hold(names: Iterable[str]) -> None:
    """Read modules that are not imported yet. Each one is executed on first access to one of its attributes.

    A package must come before its modules.

    A module that is not a plain file, such as one in a zip archive, is imported immediately.
    """
    held_packages: dict[str, list[str]] = {}
    for name in names:
        if name in sys.modules:
            continue
        package, _, short = name.rpartition(".")
        # Reading ``__path__`` of a held package would execute it.
        spec = PathFinder.find_spec(name, held_packages.get(package) or import_module(package).__path__)
        if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            import_module(name)
            continue
        spec.loader = LazyLoader(_HeldFileLoader(name, spec.origin, spec.cached))
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        if spec.submodule_search_locations is not None:
            held_packages[name] = spec.submodule_search_locations
        setattr(sys.modules[package], short, module)
