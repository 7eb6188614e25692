"""The ``codex`` binary to run, and its version, for tools that report on an installation, such as the doctor."""

from trio_codex._launch._binary import TESTED as TESTED
from trio_codex._launch._binary import Binary as Binary
from trio_codex._launch._binary import check_version as check_version
from trio_codex._launch._binary import find_binary as find_binary
from trio_codex._launch._binary import find_others as find_others
from trio_codex._launch._binary import read_version as read_version
