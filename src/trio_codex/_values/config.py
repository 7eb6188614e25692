"""Configuration of a client, validated on creation."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import attrs

from trio_codex._core.arguments import as_tuple, check_positive, check_type
from trio_codex._core.framing import MAX_LINE_BYTES
from trio_codex._values.paths import expand
from trio_codex.errors import SpawnError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

VERSION: Final = "0.1.0"


def _assignments(_: object, __: attrs.Attribute[Any], value: Sequence[str]) -> None:
    for override in value:
        if "=" not in override:
            raise ValueError(f"expected key=value as a config override, not {override!r}")


def _number(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_positive(attribute.name, value)


def _count(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_type(attribute.name, value, int, "pass a whole number")
    check_positive(attribute.name, value)


def _flag(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_type(attribute.name, value, bool, "pass True or False")


def _text(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    check_type(attribute.name, value, str, "pass a string")


def _path(_: object, attribute: attrs.Attribute[Any], value: object) -> None:
    if value is not None and not isinstance(value, str):
        check_type(attribute.name, value, os.PathLike, "pass a path, as a string or a Path")


def _way_out(_: object, __: object, value: object) -> None:
    if value not in ("kill", "abandon"):
        raise ValueError(f"on_stuck_turn must be 'kill' or 'abandon', not {value!r}")


def _names(value: Iterable[str]) -> Sequence[str]:
    return as_tuple(value)


def _inherited(value: bool | Iterable[str]) -> bool | Collection[str]:
    return value if isinstance(value, bool) else as_tuple(value)


def _freeze_environment(value: Mapping[str, str | None] | None) -> Mapping[str, str | None]:
    if value is None:
        return {}
    hint = 'write env={"NAME": "value"}, and None as a value to remove a name'
    check_type("env", value, Mapping, hint)
    for name, text in value.items():
        check_type("a name of env", name, str, hint)
        if text is not None:
            check_type(f"env[{name!r}]", text, str, hint)
    return dict(value)


def _event_buffer(_: object, __: object, value: EventBuffer) -> None:
    check_type("event_buffer", value, EventBuffer, "write EventBuffer(events=…, size=…)")


def _is_utf8(text: str) -> bool:
    """Return whether a text is valid UTF-8 once it is encoded for the system, as lone surrogates may not be."""
    try:
        os.fsencode(text).decode("utf-8")
    except UnicodeError:
        return False
    return True


def _home_expanded(path: str | os.PathLike[str]) -> str | os.PathLike[str]:
    """Expand a leading ``~`` to a home directory. Return any other value unchanged."""
    try:
        is_below_home = os.fspath(path).startswith("~")
    except TypeError:
        return path
    return expand(path) if is_below_home else path


@attrs.frozen
class EventBuffer:
    """Bounds of a consumer's buffer. Beyond either, its iteration raises ``SubscriptionOverflow``.

    Attributes:
        events: Maximum number of events.
        size: Maximum size in bytes.
    """

    events: int = attrs.field(default=8192, validator=_count)
    size: int = attrs.field(default=16 * 1024 * 1024, validator=_count)


@attrs.frozen(kw_only=True)
class ClientConfig:
    """Configuration of a client that connects to a running server. All times are in seconds.

    Attributes:
        client_name: The name that the client sends to the server.
        client_title: The display name of the client.
        client_version: The version of the client.
        experimental_api: Enable the experimental part of the protocol. Without it the server rejects experimental
            methods and fields.
        opt_out_notifications: Methods of notifications that the server should not send.
        request_window: Maximum number of concurrent requests, counting only those that the server answers immediately.
        max_line_bytes: Maximum size of an inbound message in bytes. A longer message is discarded, and the request or
            turn that it belongs to fails.
        event_buffer: Bounds of each consumer's buffer.
        start_timeout: Time from connecting, or from starting the process, to the response to ``initialize``.
        request_timeout: Timeout for requests that the server answers immediately.
        interrupt_grace: Time for a turn, command or goal whose scope exited early to end on the server.
        on_stuck_turn: What to do if a turn, or a command of ``exec``, does not end within ``interrupt_grace``. With
            ``"kill"``, give up the connection, and kill the server if this client started it; this also loses its
            other turns. With ``"abandon"``, report only this turn as lost; an attached client always does so.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type, such as a bare string where a list is expected.
    """

    client_name: str = attrs.field(default="trio_codex", validator=_text)
    client_title: str = attrs.field(default="trio-codex", validator=_text)
    client_version: str = attrs.field(default=VERSION, validator=_text)
    experimental_api: bool = attrs.field(default=True, validator=_flag)
    opt_out_notifications: Sequence[str] = attrs.field(default=(), converter=_names)
    request_window: int = attrs.field(default=64, validator=_count)
    max_line_bytes: int = attrs.field(default=MAX_LINE_BYTES, validator=_count)
    event_buffer: EventBuffer = attrs.field(factory=EventBuffer, validator=_event_buffer)
    start_timeout: float = attrs.field(default=30.0, validator=_number)
    request_timeout: float = attrs.field(default=120.0, validator=_number)
    interrupt_grace: float = attrs.field(default=10.0, validator=_number)
    on_stuck_turn: Literal["kill", "abandon"] = attrs.field(default="kill", validator=_way_out)

    def need_experimental_api(self, what: str) -> None:
        """Raise ``ValueError`` if ``experimental_api`` is off."""
        if not self.experimental_api:
            raise ValueError(f"{what} are experimental and need {type(self).__name__}(experimental_api=True)")


@attrs.frozen(kw_only=True)
class CodexConfig(ClientConfig):
    """Configuration of a client and of the server that it starts. All times are in seconds.

    It also has the fields of :class:`ClientConfig`.

    Attributes:
        codex_bin: The binary. The default is the one installed by the ``runtime`` extra, else ``codex`` on ``PATH``.
        launch_args_override: The complete argument vector, instead of ``[codex_bin, "app-server"]``.
        config_overrides: ``key=value`` pairs, as for ``codex -c``; values are TOML.
        cwd: Working directory of the server. The default is that of this process. In each path of this
            configuration, a leading ``~`` is the home directory of this process.
        env: Overrides for the environment selected by ``inherit_env``; ``None`` as a value removes a variable.
        inherit_env: ``True`` for the whole environment of this process, ``False`` for none of it, or the names to
            keep. A variable that is not valid UTF-8 is left out, because the server could not run any command with it.
        guard: Run the server under a guard process where possible: on Linux, with a Python interpreter to run the
            guard. Without a guard, a command that moved to its own session outlives the server once the command's
            parent has exited. Also, the server and its descendants outlive this program if SIGKILL kills it.
        guard_python: The interpreter that runs the guard. The default is the one running this program. For a
            frozen program, or one that embeds Python, it is the interpreter of the installation in
            ``sys.exec_prefix``; if there is none, no guard runs.
        codex_home: ``CODEX_HOME`` of the server: its configuration, credentials and threads. A relative path is
            resolved against the server's working directory.
        stop_grace: Time for the server to exit on its own when the client closes.

    Raises:
        ValueError: A value is out of range.
        TypeError: A value has the wrong type, such as a bare string where a list is expected.
    """

    codex_bin: str | os.PathLike[str] | None = attrs.field(default=None, validator=_path)
    launch_args_override: Sequence[str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_names)
    )
    config_overrides: Sequence[str] = attrs.field(default=(), converter=_names, validator=_assignments)
    cwd: str | os.PathLike[str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_home_expanded), validator=_path
    )
    env: Mapping[str, str | None] = attrs.field(default=None, converter=_freeze_environment, repr=False)
    inherit_env: bool | Collection[str] = attrs.field(default=True, converter=_inherited)
    guard: bool = attrs.field(default=True, validator=_flag)
    guard_python: str | os.PathLike[str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_home_expanded), validator=_path
    )
    codex_home: str | os.PathLike[str] | None = attrs.field(
        default=None, converter=attrs.converters.optional(_home_expanded), validator=_path
    )
    stop_grace: float = attrs.field(default=5.0, validator=_number)

    def environment(self) -> dict[str, str]:
        """Return the server's environment.

        Raises:
            ValueError: A variable from ``env`` or ``codex_home`` is not valid UTF-8.
        """
        if self.inherit_env is True:
            environment = dict(os.environ)
        elif self.inherit_env is False:
            environment = {}
        else:
            environment = {name: os.environ[name] for name in self.inherit_env if name in os.environ}
        # The server panics on any other variable whenever it starts a command, and never answers (Q63).
        environment = {
            name: value for name, value in environment.items() if _is_utf8(name) and _is_utf8(value)
        }
        if self.codex_home is not None:
            environment["CODEX_HOME"] = os.fspath(self.codex_home)
        for name, value in self.env.items():
            if value is None:
                environment.pop(name, None)
            else:
                environment[name] = value
        if not all(_is_utf8(name) and _is_utf8(value) for name, value in environment.items()):
            raise ValueError(
                "an environment variable contains bytes that are not UTF-8: the server could run no command with it"
            )
        return environment

    def home(self) -> Path:
        """Return the ``CODEX_HOME`` that the server will use, whether or not it exists.

        Raises:
            SpawnError: It is unknown: neither ``CODEX_HOME`` nor ``HOME`` is set, and the user has no passwd entry.
        """
        environment = self.environment()
        home = environment.get("CODEX_HOME") or Path(environment.get("HOME") or _own_home(), ".codex")
        return Path(self.cwd or "", home)

    def state_home(self) -> Path:
        """Return the directory in which the server will keep its databases.

        Raises:
            SpawnError: As in :meth:`home`.
        """
        directory = self.environment().get("CODEX_SQLITE_HOME")
        return Path(self.cwd or "", directory) if directory else self.home()

    def command_line(self, binary: str) -> list[str]:
        """Return the server's argument vector."""
        if self.launch_args_override is not None:
            return list(self.launch_args_override)
        overrides = [part for override in self.config_overrides for part in ("-c", override)]
        return [binary, *overrides, "app-server"]


def _own_home() -> Path:
    """Return the user's home directory, determined the way a server without ``HOME`` determines it."""
    if sys.platform == "win32":
        return Path.home()
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        raise SpawnError(
            "no home directory found: HOME is not set, and this user has no passwd entry",
            phase="find",
            hint="Set HOME, or codex_home to the directory of the server's configuration and threads.",
        ) from None
