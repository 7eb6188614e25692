"""Text for display: printable strings, and errors as one line with the cause and the fix.

Text from the agent and the server is untrusted: an escape sequence could hide the command that the user is about to
approve.
"""

from __future__ import annotations

import os
import re
import shlex
import unicodedata
from typing import TYPE_CHECKING, Final

from trio_codex.errors import CodexError, ConnectionBroken, JournalError, RpcError, StartError, TurnFailed

if TYPE_CHECKING:
    from collections.abc import Mapping

LINE_LIMIT: Final = 600
"""Maximum length of a one-line error. Some server errors list all methods, which takes 5 kB."""

SHELLS: Final = frozenset(
    f"{directory}/{shell}" for directory in ("/bin", "/usr/bin") for shell in ("bash", "sh", "zsh", "dash")
)
"""Shells that are stripped from a displayed command line. A shell in any other place is shown."""

ESCAPE_SEQUENCE: Final = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
_SECRET_NAME: Final = re.compile(r"KEY|TOKEN|SECRET|PASSWORD|CREDENTIAL", re.IGNORECASE)
_SECRET_VALUE: Final = re.compile(r"\b(?:sk-|eyJ)[-A-Za-z0-9_.]{12,}")
_OPTION: Final = re.compile(r"(?<![\w/.-])codex_(bin|home)(?![\w/-]|\.\w)")
"""Library arguments that are options here, unless they are part of a path."""

_OPTIONS: Final = {
    "auth=BearerToken(…) or auth=SignedBearer(…)": "--token-file with a token",
    "auth=BearerToken(…)": "--token-file",
    "Connect to such a server with connect_codex().": "Start the server with --listen ws://IP:PORT or unix://PATH.",
    "use wss://, a tunnel, or insecure=True": "use wss:// or a tunnel",
    "Pass an ssl_context that trusts its certificate.": "Set SSL_CERT_FILE to the certificate of its authority.",
    ", or pass an ssl_context with check_hostname = False.": ".",
    "Pass an ssl_context that this server accepts: it": "The server refuses the TLS settings of this command: it",
}
_CONFIG_HINT: Final = "Correct config.toml in CODEX_HOME, or the value given with -c."
_DESCRIPTORS_HINT: Final = (
    "Archive threads that are done, or raise the hard limit of open files (ulimit -Hn)."
)


class CommandFailed(Exception):
    """A command cannot continue.

    Args:
        message: The line for stderr.
        status: The exit status.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message, status)
        self.message = message
        self.status = status


def working_directory() -> str:
    """Return the working directory.

    Raises:
        CommandFailed: The working directory no longer exists.
    """
    try:
        return os.getcwd()
    except OSError as error:
        raise CommandFailed(
            f"the working directory no longer exists ({error.strerror}); pass another with --cwd"
        ) from error


def printable(text: str, *, strict: bool = False) -> str:
    r"""Replace control characters with escapes such as ``\x1b``; keep newlines and tabs.

    Args:
        text: Any text.
        strict: Whether to also replace invisible characters and those that change the text direction; use this for text
            that the user is asked to approve.
    """
    unwanted = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp") if strict else ("Cc", "Cs")
    if text.isprintable():
        return text
    return "".join(
        char if char in "\n\t" or unicodedata.category(char) not in unwanted else _escaped(char)
        for char in text
    )


def _escaped(char: str) -> str:
    code = ord(char)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def one_line(text: str, limit: int = LINE_LIMIT) -> str:
    """Return text as one printable line without secrets, cut to ``limit`` characters."""
    line = redacted(printable(" ".join(ESCAPE_SEQUENCE.sub("", text).split())))
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def redacted(text: str, environment: Mapping[str, str] | None = None) -> str:
    """Redact strings that look like keys, and the values of environment variables whose names suggest a secret."""
    secrets = [
        (form, f"<{name}>")
        for name, value in (os.environ if environment is None else environment).items()
        if len(value) >= 8 and _SECRET_NAME.search(name)
        for form in (value, " ".join(value.split()))
    ]
    # Longest first: if one value is a prefix of another, the remainder of the longer one would stay visible.
    for value, shown in sorted(secrets, key=lambda secret: len(secret[0]), reverse=True):
        text = text.replace(value, shown)
    return _SECRET_VALUE.sub("<redacted>", text)


def camel_case(members: Mapping[str, object]) -> dict[str, object]:
    """Return the members of a JSON object with names as the server writes them: ``threadId``, not ``thread_id``."""
    return {
        re.sub(r"_([a-z])", lambda match: match[1].upper(), name): value for name, value in members.items()
    }


def script_of(command: str) -> str:
    """Strip ``bash -c`` from a command line if that loses no information."""
    try:
        parts = shlex.split(command)
    except ValueError:
        return command
    if len(parts) == 3 and parts[0] in SHELLS and parts[1] in ("-c", "-lc"):
        return parts[2]
    return command


def explain(error: CodexError) -> tuple[str, str | None]:
    """Return the cause of an error in one line, and the fix if it is known."""
    match error:
        case StartError():
            where = f" ({error.binary})" if error.binary else ""
            detail = _stderr_line(error.stderr_tail)
            return one_line(f"{as_options(error.problem)}{where}{detail}"), as_options(error.hint)
        case JournalError():
            return one_line(f"the journal {error.path} {error.problem}"), as_options(error.hint)
        case ConnectionBroken():
            return one_line(f"{error.reason}{_stderr_line(error.stderr_tail)}"), None
        case RpcError() if re.search(r"\(os error (?:23|24)\)", error.message):
            return one_line(error.message), _DESCRIPTORS_HINT
        case RpcError() if "failed to load configuration" in error.message:
            return one_line(error.message), _CONFIG_HINT
        case TurnFailed():
            reason = error.result.error
            return one_line(str(error)), _turn_hint("" if reason is None else str(reason.codex_error_info))
        case _:
            return one_line(str(error)), None


def sentence(cause: str, hint: str | None) -> str:
    """Join a cause and its fix in one line."""
    return cause if hint is None else f"{cause.rstrip('.')}. {one_line(hint)}"


def as_options(text: str | None) -> str:
    """Replace the names of library arguments with those of the options."""
    text = _OPTION.sub(r"--codex-\1", text or "")
    for words, option in _OPTIONS.items():
        text = text.replace(words, option)
    return text


def _stderr_line(stderr_tail: str) -> str:
    """Return the line of the server's stderr that explains its exit: an ``Error:`` line, else the last one."""
    lines = [line for line in stderr_tail.splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error\b", line, re.IGNORECASE)]
    return f": {(errors or lines)[-1]}" if lines else ""


def _turn_hint(info: str) -> str | None:
    if "unauthorized" in info.lower():
        return "Log in with codex login; trio-codex doctor shows the login status."
    if info == "usageLimitExceeded":
        return "Wait until the usage limit of this account resets."
    return None
