"""The policies of ``run`` and ``chat``: one that asks on the terminal, and one that declines if there is no terminal.

A question is an ordinary task: it waits for the terminal without a thread, and is cancelled when the server withdraws
the request or the turn ends.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final, TypeVar

import attrs
import trio
from rich.text import Text

from trio_codex import policies
from trio_codex.cli._fields import UnsupportedForm, ask_question, fill_in
from trio_codex.cli._questions import (
    command_question,
    elicitation_question,
    file_change_question,
    permissions_question,
    user_input_question,
    wanted,
)
from trio_codex.cli._terminal import InputEndedError, Terminal
from trio_codex.cli._text import one_line, printable, script_of
from trio_codex.policies import (
    CommandRequest,
    Decision,
    Decline,
    ElicitationRequest,
    FileChangeRequest,
    FormElicitation,
    McpToolApproval,
    PermissionsRequest,
    Policy,
    UserInputDecision,
    UserInputRequest,
    VerificationElicitation,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from trio_codex.cli._render import Screen

_DecisionT = TypeVar("_DecisionT")


@attrs.frozen
class _Choice:
    """One of the offered answers.

    Attributes:
        key: The key to type.
        words: Alternatives to the key.
        label: The label, which includes the key.
        decision: The decision that it stands for.
        confirmation: The text to show after the user chose it.
    """

    key: str
    words: tuple[str, ...]
    label: tuple[str, str]
    decision: policies.CommandDecision
    confirmation: str


ROOM_FOR_ANSWER: Final = 10
"""Columns to keep free in a row of answers, for the end of the prompt and the word that the user types."""

ONCE: Final = _Choice("y", ("yes", "once"), ("", "es, once"), policies.accept(), "accepted")
FOR_TURN: Final = _Choice("y", ("yes", "turn"), ("", "es, for this turn"), policies.accept(), "granted")
AGREE: Final = _Choice("y", ("yes",), ("", "es"), policies.accept(), "accepted")
SESSION: Final = _Choice(
    "s", ("session",), ("", " yes, for the session"), policies.accept("session"), "accepted for the session"
)
ALWAYS: Final = _Choice("a", ("always",), ("", "lways"), policies.accept("always"), "accepted permanently")
NO: Final = _Choice("n", ("no",), ("", "o"), policies.decline("declined on the terminal"), "declined")
STOP: Final = _Choice(
    "q", ("stop", "quit"), ("", " no, stop the turn"), policies.cancel(), "declined; stopping the turn"
)
NO_ITEM: Final = attrs.evolve(NO, confirmation="")
"""Declines a command or a file change, without a confirmation: its item is shown as declined."""
STOP_ITEM: Final = attrs.evolve(STOP, confirmation="stopping the turn")


class Asker:
    """Asks the user at the terminal, one question at a time.

    Args:
        screen: The screen to ask on.
        terminal: The descriptor to read answers from.
        cwd: The directory that paths are shown relative to; empty to show them in full.

    Attributes:
        diffs_seen: The items whose changes were shown with a question.
    """

    def __init__(self, screen: Screen, terminal: int, cwd: str) -> None:
        self._screen = screen
        self._terminal = Terminal(screen, terminal)
        self._cwd = cwd
        self.diffs_seen: set[str] = set()

    @property
    def policy(self) -> Policy:
        """The policy that asks."""
        return Policy(
            name="terminal",
            command=self._command,
            file_change=self._file_change,
            permissions=self._permissions,
            user_input=self._user_input,
            elicitation=self._elicitation,
        )

    async def _command(self, request: CommandRequest) -> policies.CommandDecision:
        choices = [ONCE, SESSION, *_lasting(request), NO_ITEM, STOP_ITEM]
        return await self._ask(command_question(request), lambda: self._choose(choices))

    async def _file_change(self, request: FileChangeRequest) -> Decision:
        choices = [ONCE, SESSION, NO_ITEM, STOP_ITEM]
        self.diffs_seen.add(request.item_id)
        return await self._ask(file_change_question(request, self._cwd), lambda: self._choose_simple(choices))

    async def _permissions(self, request: PermissionsRequest) -> Decision:
        choices = [FOR_TURN, SESSION, NO, STOP]
        return await self._ask(permissions_question(request), lambda: self._choose_simple(choices))

    async def _user_input(self, request: UserInputRequest) -> UserInputDecision:
        async def answer() -> UserInputDecision:
            await trio.lowlevel.checkpoint()
            given: dict[str, tuple[str, ...]] = {}
            for question in request.questions:
                answer = await ask_question(self._screen, self._terminal, question)
                if answer is not None:
                    given[question.id] = answer
            return policies.answers(given)

        return await self._ask(user_input_question(request), answer)

    async def _elicitation(self, request: ElicitationRequest) -> Decision:
        async def answer() -> Decision:
            await trio.lowlevel.checkpoint()
            match request:
                case VerificationElicitation():
                    self._screen.note("  declined: a terminal cannot provide this proof", "yellow")
                    return policies.decline("a terminal cannot provide this proof")
                case McpToolApproval(scopes=scopes):
                    offered = {"session": SESSION, "always": ALWAYS}
                    return await self._choose_simple([ONCE, *(offered[scope] for scope in scopes), NO, STOP])
                case FormElicitation():
                    decision = await self._choose_simple([AGREE, NO, STOP])
                    return await self._fill_in(request) if decision == AGREE.decision else decision
                case _:
                    return await self._choose_simple([AGREE, NO, STOP])

        return await self._ask(elicitation_question(request), answer)

    async def _fill_in(self, request: FormElicitation) -> Decision:
        await trio.lowlevel.checkpoint()
        try:
            content = await fill_in(self._screen, self._terminal, request.schema)
        except UnsupportedForm:
            self._screen.note("  declined: the form cannot be filled in on a terminal", "yellow")
            return policies.decline("the form cannot be filled in on a terminal")
        return policies.accept(content=content)

    # Ctrl-C must reach the main task, whose turn it interrupts; in this task it would only fail a callback.
    @trio.lowlevel.enable_ki_protection
    async def _ask(
        self, question: Iterable[Text], answer: Callable[[], Awaitable[_DecisionT]]
    ) -> _DecisionT | Decline:
        # Let the events that led to the question reach the screen first.
        await trio.lowlevel.checkpoint()
        async with self._screen.asking():
            for line in question:
                indent = len(line.plain) - len(line.plain.lstrip(" "))
                self._screen.note(line[indent:], indent=indent)
            self._terminal.drop_typed_ahead()
            try:
                return await answer()
            except InputEndedError:
                self._screen.note("  declined: the input has ended", "yellow")
                return policies.decline("no answer: the input has ended")
            except trio.Cancelled:
                self._screen.note("")
                self._screen.note("  withdrawn: no answer is needed", "yellow")
                raise

    async def _choose_simple(self, choices: Iterable[_Choice]) -> Decision:
        decision = await self._choose(choices)
        assert not isinstance(decision, policies.NetworkRule)
        return decision

    async def _choose(self, choices: Iterable[_Choice]) -> policies.CommandDecision:
        chosen = {word: choice for choice in choices for word in (choice.key, *choice.words)}
        prompt = _prompt(dict.fromkeys(chosen.values()), self._screen.width)
        while True:
            line = await self._terminal.line(prompt)
            if (answer := chosen.get(line.lower())) is not None:
                if answer.confirmation:
                    self._screen.note(f"  {answer.confirmation}", "dim")
                return answer.decision


def _prompt(choices: Iterable[_Choice], width: int) -> Text:
    """Lay out the answers in rows of at most ``width`` columns. The last row leaves room for an answer."""
    rows = [Text("  ")]
    for choice in choices:
        label = Text.assemble(choice.label[0], (f"[{choice.key}]", "bold"), choice.label[1])
        if rows[-1].cell_len > 2:
            if rows[-1].cell_len + 2 + label.cell_len + ROOM_FOR_ANSWER > width:
                rows.append(Text("  "))
            else:
                rows[-1].append("  ")
        rows[-1].append_text(label)
    return Text("\n").join(rows).append(" > ")


def _lasting(request: CommandRequest) -> list[_Choice]:
    """Return the answers that cover more than this command, as proposed by the server."""
    if request.proposed_exec_policy:
        confirmation = (
            f"accepted, with all later commands that begin with {shlex.join(request.proposed_exec_policy)}"
        )
        accepted = policies.accept(exec_policy=request.proposed_exec_policy)
        return [_Choice("a", ("always",), ("", "lways"), accepted, printable(confirmation, strict=True))]
    keys = {"allow": ("a", "always", "lways"), "deny": ("d", "never", "eny always")}
    choices: list[_Choice] = []
    for rule in request.proposed_network_rules:
        for action in ("allow", "deny"):
            if rule.action == action:
                key, word, label = keys[action]
                confirmation = printable(f"{action} {rule.host} permanently", strict=True)
                decision = policies.network_rule(rule.host, action)
                choices.append(_Choice(key, (word,), ("", label), decision, confirmation))
    return choices


def declining(screen: Screen) -> Policy:
    """Create the policy for when no user can be asked."""

    async def decline(what: str) -> Decline:
        await trio.lowlevel.checkpoint()
        screen.note(f"declined, because there is no terminal to ask on: {one_line(what, 200)}", "yellow")
        return policies.decline("there is no terminal to ask on")

    async def command(request: CommandRequest) -> Decline:
        return await decline(script_of(request.command or "an unnamed command"))

    async def file_change(request: FileChangeRequest) -> Decline:
        return await decline("changes to " + ", ".join(change.path for change in request.changes))

    async def permissions(request: PermissionsRequest) -> Decline:
        return await decline("permissions to " + ", ".join(wanted(request)))

    async def user_input(request: UserInputRequest) -> Decline:
        return await decline(" ".join(question.question for question in request.questions))

    async def elicitation(request: ElicitationRequest) -> Decline:
        return await decline(f"{request.server_name}: {request.message}")

    return Policy(
        name="no terminal",
        command=command,
        file_change=file_change,
        permissions=permissions,
        user_input=user_input,
        elicitation=elicitation,
    )
