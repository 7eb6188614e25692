"""Shared code that runs each example without an account and without a network. See ``_offline.py`` in the parent directory."""

import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from trio_codex import CodexConfig, blocking

sys.path.append(str(Path(__file__).parents[1]))

from _offline import example_config  # it is found by the path above

open_config: Any = blocking.from_trio(example_config)


def offline_config(example: str) -> AbstractContextManager[CodexConfig]:
    """Provide the configuration for an example."""
    config: AbstractContextManager[CodexConfig] = open_config(f"blocking/{example}")
    return config
