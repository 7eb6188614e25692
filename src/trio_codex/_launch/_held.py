"""Modules that a session may use later: owns copies of their files in memory.

A module that is imported in the middle of a session is read from disk. That fails once the package is upgraded, or while
no descriptor is free. Importing everything at the start would cost more time and memory than most sessions need, so the
files are read at the start, and their code runs when it is used.
"""

from __future__ import annotations

import importlib
import sys
import zlib
from contextlib import suppress
from importlib.machinery import SourceFileLoader
from importlib.util import LazyLoader, find_spec, module_from_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class _HeldFileLoader(SourceFileLoader):
    """Loads one module from copies of its source and its bytecode."""

    def __init__(self, name: str, path: str, bytecode_path: str | None) -> None:
        super().__init__(name, path)
        self._stats = super().path_stats(path)
        self._files = {path: zlib.compress(super().get_data(path), 1)}
        if bytecode_path is not None:
            with suppress(OSError):  # not compiled yet
                self._files[bytecode_path] = zlib.compress(super().get_data(bytecode_path), 1)

    def get_data(self, path: str) -> bytes:
        """Return the content of a file when it was copied; ``OSError`` if there was none."""
        if path not in self._files:
            raise FileNotFoundError(path)
        return zlib.decompress(self._files[path])

    def path_stats(self, path: str) -> Mapping[str, float]:
        """Return what the source was like when it was copied."""
        return self._stats

    def set_data(self, path: str, data: object, *, _mode: int = 0o666) -> None:
        """Write no bytecode: the files on disk may be of another version by now."""


def hold(names: Iterable[str]) -> None:
    """Read modules that are not imported yet; each runs when one of its attributes is first used.

    A module that is no plain file, such as one in an archive, is imported.

    Args:
        names: The modules. Each comes after the package it is in.

    Raises:
        ImportError: There is no such module.
        OSError: It cannot be read.
    """
    for name in names:
        if name in sys.modules:
            continue
        spec = find_spec(name)
        if spec is None or type(spec.loader) is not SourceFileLoader or spec.origin is None:
            importlib.import_module(name)
            continue
        spec.loader = LazyLoader(_HeldFileLoader(name, spec.origin, spec.cached))
        module = sys.modules[name] = module_from_spec(spec)
        spec.loader.exec_module(module)
        package, _, short = name.rpartition(".")
        setattr(sys.modules[package], short, module)
