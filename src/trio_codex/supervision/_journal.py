"""The journal of a supervisor: names, ids, keys, hashes and states, but no prompts or answers.

Every write is committed before the line that depends on it is sent. The end of a running turn and its usage may be
committed later, with the next prompt or within a second: after a kill, the history provides the same information.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import attrs

from trio_codex import errors
from trio_codex._database import Database, Format
from trio_codex.supervision._spending import Spent

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

FORMAT: Final = Format(
    owner="supervisor",
    application=0x74434A31,
    version=1,
    tables="""
create table threads(
    name text primary key, id text not null, home text, accepted integer not null default 0, server text, anchor text,
    deaths integer not null default 0, tokens integer not null default 0, turns integer not null default 0,
    seconds real not null default 0
);
create table keys(
    name text not null, key text not null, digest text not null, attempt integer not null, state text not null,
    anchor text, turn text, status text, by_us integer not null default 0, primary key(name, key)
) without rowid;
""",
)
"""The columns are those of the classes below, in their order."""

State: TypeAlias = Literal["sending", "running", "ended"]


@attrs.frozen
class ThreadRow:
    """The journal's record of a thread.

    Attributes:
        name: The name that the program gave it.
        id: Its id on the server.
        home: The ``CODEX_HOME`` of the server.
        accepted: Whether one of its turns is known to have reached the history.
        server: The stamp of the server process that had it last; ``None`` if it is not known.
        anchor: The newest turn before the latest prompt was sent; ``None`` if there was none.
        deaths: The number of consecutive server deaths at which it had an open turn.
        tokens: Tokens used by its turns.
        turns: The number of turns started.
        seconds: Seconds during which a turn was open.
    """

    name: str
    id: str
    home: str | None = None
    accepted: int = 0
    server: str | None = None
    anchor: str | None = None
    deaths: int = 0
    tokens: int = 0
    turns: int = 0
    seconds: float = 0.0


@attrs.frozen
class KeyRow:
    """The journal's record of a prompt.

    Attributes:
        name: The name of its thread.
        key: Its key.
        digest: The hash of its input and options.
        attempt: The number of the latest message sent for it: 1 for the prompt itself, more for follow-ups.
        state: ``"sending"`` from before that message is sent, ``"running"`` from its first item on, ``"ended"``.
        anchor: The newest turn before that message was sent; ``None`` if there was none.
        turn: The id of its turn; ``None`` while it is not known.
        status: How the turn ended.
        by_us: Whether it was interrupted by the program rather than by a death.
    """

    name: str
    key: str
    digest: str
    attempt: int
    state: State
    anchor: str | None = None
    turn: str | None = None
    status: str | None = None
    by_us: int = 0


class Journal(Database):
    """An open journal. Every method is synchronous and takes microseconds.

    Args:
        path: The path of the database; ``None`` for one in memory.
        writes: Whether to open it for writing, which only one supervisor at a time can do.

    Raises:
        JournalInUse: Another supervisor has the journal open.
        JournalError: The database cannot be opened, is not a journal, or has another version.
    """

    def __init__(self, path: str | os.PathLike[str] | None, *, writes: bool = True) -> None:
        self.is_durable: bool = path is not None
        self._accepted: set[str] = set()
        # The keys of each thread for which a key was looked up, so that a new prompt costs no query.
        self._keys: dict[str, set[str]] = {}
        # What the latest turn of a thread used, until the next statement that changes its row.
        self._used: dict[str, tuple[int, int, float]] = {}
        super().__init__(path, FORMAT, writes=writes)

    def close_thread(self, name: str) -> None:
        """Drop the cached keys of a thread."""
        self._keys.pop(name, None)

    def _catch_up(self) -> None:
        for name in tuple(self._used):
            self.write_late(
                "update threads set tokens=max(tokens+?, ?), seconds=seconds+? where name=?",
                *self._used.pop(name), name,
            )  # fmt: skip
        super()._catch_up()

    # -- threads -----------------------------------------------------------------------------------------------

    def thread(self, name: str) -> ThreadRow | None:
        """Return the row of a thread."""
        rows = self.rows("select * from threads where name=?", name)
        return ThreadRow(*rows[0]) if rows else None

    def spent(self, name: str | None = None) -> Spent:
        """Return the usage of a thread, or of all threads."""
        # Two conditions, because a single one for both cases would read the rows of all threads.
        where = " where name=?" if name is not None else " where ? is null"
        (row,) = self.rows(
            f"select coalesce(sum(tokens), 0), coalesce(sum(turns), 0), coalesce(sum(seconds), 0.0) from threads{where}",
            name,
        )
        return Spent(*row)

    def threads(self) -> list[ThreadRow]:
        """Return the rows of all threads."""
        return [ThreadRow(*row) for row in self.rows("select * from threads order by name")]

    def started(self, name: str, thread_id: str, home: str | None, server: str | None) -> None:
        """Record that the server has started a thread, before its first turn."""
        self._accepted.discard(name)
        self.write(
            "insert into threads(name, id, home, server) values(?, ?, ?, ?) on conflict(name) do update set"
            " id=excluded.id, home=excluded.home, server=excluded.server, accepted=0, anchor=null",
            name, thread_id, home, server,
        )  # fmt: skip

    def resumed(self, name: str, server: str | None) -> None:
        """Record which server has a thread, before anything is sent on it."""
        self.write("update threads set server=? where name=?", server, name)

    def died(self, name: str, deaths: int) -> None:
        """Record the number of consecutive deaths at which a thread had an open turn, with the next commit."""
        self.write_late("update threads set deaths=? where name=?", deaths, name)

    def used(self, name: str, tokens: int, seconds: float, total: int) -> None:
        """Record the usage of a turn, in the statement of the next prompt or with the next commit.

        Args:
            name: The name of the thread.
            tokens: Tokens.
            seconds: Seconds.
            total: The tokens of the whole thread as counted by the server; 0 if not reported. They include turns
                that were interrupted because the program died.
        """
        if name in self._used:
            self._catch_up()
        self._used[name] = tokens, total, seconds

    # -- keys --------------------------------------------------------------------------------------------------

    def key(self, name: str, key: str) -> KeyRow | None:
        """Return the row of a prompt."""
        if name not in self._keys:
            self._keys[name] = {key for (key,) in self.rows("select key from keys where name=?", name)}
        if key not in self._keys[name]:
            return None
        rows = self.rows("select * from keys where name=? and key=?", name, key)
        return KeyRow(*rows[0]) if rows else None

    def keys(self, name: str) -> list[KeyRow]:
        """Return the rows of all prompts of a thread."""
        return [KeyRow(*row) for row in self.rows("select * from keys where name=? order by key", name)]

    def sending(self, name: str, key: str, digest: str, attempt: int, anchor: str | None) -> None:
        """Record that a message is about to be sent."""
        if name in self._keys:
            self._keys[name].add(key)
        used = self._used.pop(name, (0, 0, 0.0))
        prompt = (
            "insert into keys(name, key, digest, attempt, state, anchor) values(?, ?, ?, ?, 'sending', ?)"
            " on conflict(name, key) do update set attempt=excluded.attempt, state='sending',"
            " anchor=excluded.anchor, turn=null, status=null, by_us=0",
            (name, key, digest, attempt, anchor),
        )
        try:
            self.write(
                "update threads set anchor=?, turns=turns+1, tokens=max(tokens+?, ?), seconds=seconds+? where name=?",
                anchor, *used, name, after=(prompt,),
            )  # fmt: skip
        except errors.JournalError:
            self._used[name] = used
            raise

    def running(self, name: str, key: str, turn: str) -> None:
        """Record that the server is working on a message."""
        if name not in self._accepted:
            self.write_late("update threads set accepted=1 where name=?", name)
        self.write("update keys set state='running', turn=? where name=? and key=?", turn, name, key)
        self._accepted.add(name)

    def ended(self, name: str, key: str, turn: str, status: str, *, by_us: bool, late: bool = False) -> None:
        """Record how the turn of a message ended.

        Args:
            name: The name of the thread.
            key: The key.
            turn: The id of the turn.
            status: Its status.
            by_us: Whether the program interrupted it.
            late: Whether it may wait for the next commit. If the program is killed before that, the key stays
                ``"running"``.
        """
        write = self.write_late if late else self.write
        write(
            "update keys set state='ended', turn=?, status=?, by_us=? where name=? and key=?",
            turn, status, int(by_us), name, key,
        )  # fmt: skip

    def stopped(self, name: str, key: str) -> None:
        """Record that the program interrupted a prompt whose turn was lost."""
        self.write(
            "update keys set state='ended', status='interrupted', by_us=1 where name=? and key=? and state!='ended'",
            name, key,
        )  # fmt: skip


@attrs.frozen(kw_only=True)
class JournaledThread:
    """A thread in a journal.

    Attributes:
        name: Its name.
        id: Its id on the server.
        codex_home: The ``CODEX_HOME`` it is stored in.
        tokens: Tokens used by its turns.
        turns: The number of turns started.
        keys: The state of each prompt: ``"sending"``, ``"running"``, or how it ended.
    """

    name: str
    id: str
    codex_home: str | None
    tokens: int
    turns: int
    keys: Mapping[str, str]


def read_journal(path: str | os.PathLike[str]) -> tuple[JournaledThread, ...]:
    """Read a journal without writing to it. A supervisor may be using it.

    Args:
        path: Its path.

    Raises:
        JournalError: The journal does not exist or cannot be read.
    """
    journal = Journal(path, writes=False)
    try:
        return tuple(
            JournaledThread(
                name=row.name,
                id=row.id,
                codex_home=row.home,
                tokens=row.tokens,
                turns=row.turns,
                keys={key.key: key.status or key.state for key in journal.keys(row.name)},
            )
            for row in journal.threads()
        )
    finally:
        journal.close()
