"""One-line breaks of the library, each with the test that must fail of it: the proof that the guarantees are tested.

Run as ``python tests/mutations.py``, or with numbers of guarantees (``G3 G8``) for some of them. Each break is made in a
copy of the tree, and only there; ``tests/test_mutations.py`` is the same as a test.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import attrs
import trio

from trio_codex._runtime._process import spawn_server

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "docs", "examples", "pyproject.toml", "README.md")

TEST_SECONDS = 120
FAILED = 1
"""The exit status of pytest for "some tests failed"; another means that they could not be run."""


@attrs.frozen
class Mutation:
    """One break.

    Attributes:
        guarantee: Which one it breaks.
        what: What the code does after it.
        file: Where, below ``src/trio_codex``.
        old: The lines that are replaced; they occur once.
        new: By what.
        test: The test that must fail.
    """

    guarantee: str
    what: str
    file: str
    old: str
    new: str
    test: str

    def apply(self, root):
        """Break the copy of the tree below ``root``."""
        path = root / "src" / "trio_codex" / self.file
        text = path.read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"{self.file} holds {self.old!r} {text.count(self.old)} times, not once")
        path.write_text(text.replace(self.old, self.new))


MUTATIONS = [
    Mutation(
        "G1", "what the server leaves behind does not fall to the guard", "_runtime/_guard.py",
        "    contained = prctl(PR_SET_CHILD_SUBREAPER, 1) == 0\n", "    contained = False\n",
        "tests/runtime/test_process.py::test_what_the_server_leaves_behind_is_ended_and_stdout_ends",
    ),
    Mutation(
        "G1", "stdin stays open", "_runtime/_process.py",
        "        self._close_stdin()\n        try:", "        try:",
        "tests/runtime/test_process.py::test_a_gentle_server_ends_on_eof",
    ),
    Mutation(
        "G1", "SIGTERM is never sent", "_runtime/_process.py",
        "            self.terminate()\n", "            pass\n",
        "tests/runtime/test_process.py::test_a_server_is_ended_by_what_it_takes",
    ),
    Mutation(
        "G2", "a turn that is left is not interrupted", "_turns/_ending.py",
        "            await interrupt(session, turn)\n        except CodexError as exc:\n            # If the",
        "            await trio.lowlevel.checkpoint()\n        except CodexError as exc:\n            # If the",
        "tests/turns/test_turn.py::test_leaving_early_interrupts_once_and_waits_for_the_terminal_event",
    ),
    Mutation(
        "G2", "an accepted interrupt counts as the end", "_turns/_ending.py",
        "        await turn.ended.wait()\n    if early", "        pass\n    if early",
        "tests/turns/test_turn.py::test_leaving_early_interrupts_once_and_waits_for_the_terminal_event",
    ),
    Mutation(
        "G2", "a refused interrupt is not sent again", "_turns/_ending.py",
        'elif "no active turn" not in exc.message:', "else:",
        "tests/integration/test_real_turns.py::test_an_interrupt_right_after_the_start_is_not_lost",
    ),
    Mutation(
        "G2", "agents are left alone", "_turns/_ending.py",
        "    for child_id in turn.reducer.children:\n        child = session", "    for child_id in ():\n        child = session",
        "tests/faults/test_process_trees.py::test_the_command_of_an_agent_ends_with_the_interrupted_turn_that_spawned_the_agent",
    ),
    Mutation(
        "G2", "commands in the background are left alone", "_turns/_ending.py",
        "    for process_id in turn.reducer.terminals.values():", "    for process_id in ():",
        "tests/integration/test_real_turns.py::test_a_background_command_of_a_cancelled_turn_is_gone_and_one_of_an_earlier_turn_is_not",
    ),
    Mutation(
        "G3", "a cancelled opening is not undone", "_client/_session.py",
        "if answer is None and not call.take_back():", "if False:",
        "tests/client/test_client.py::test_a_cancelled_opening_of_a_thread_is_undone",
    ),
    Mutation(
        "G3", "entering a login is where it may be cancelled", "_client/_login.py",
        "        await trio.lowlevel.cancel_shielded_checkpoint()\n        return self\n", "        await trio.lowlevel.checkpoint()\n        return self\n",
        "tests/client/test_login.py::test_a_login_whose_scope_is_entered_when_it_was_cancelled_already_is_cancelled_on_the_server",
    ),
    Mutation(
        "G3", "a cancelled start of a turn is forgotten", "_turns/_ending.py",
        "    call = turn.start\n    if call is None:\n        return True", "    call = turn.start\n    if call is not None:\n        return False\n    if call is None:\n        return True",
        "tests/turns/test_turn.py::test_a_cancelled_start_waits_for_the_answer_and_interrupts_the_turn",
    ),
    Mutation(
        "G4", "the reader waits for callbacks", "_runtime/_connection.py",
        "            self._take_portion(portion)\n",
        "            self._take_portion(portion)\n            while self._receiver.dispatcher._open:\n                await trio.sleep(0.01)\n",
        "tests/requests/test_approvals.py::test_fifty_parked_approvals_hold_up_nothing_and_are_answered_in_any_order",
    ),
    Mutation(
        "G5", "who waits is not told of the end", "_runtime/_connection.py",
        "            call.settle(None, self.death.exception())\n", "            pass\n",
        "tests/runtime/test_connection.py::test_at_the_end_of_the_stream_every_wait_fails_within_a_second_with_an_exception_of_its_own",
    ),
    Mutation(
        "G5", "all who wait get one exception", "_runtime/_call.py",
        "        fresh = type(self._error)(*self._error.args)\n", "        fresh = self._error\n",
        "tests/runtime/test_connection.py::test_a_death_gives_a_fresh_exception_each_time",
    ),
    Mutation(
        "G5", "a server that was given up is not named", "_client/_open.py",
        "return ConnectionBroken(reason, self._phase, process.pid, None,", "return ConnectionBroken(reason, self._phase, None, None,",
        "tests/faults/test_fault_matrix.py::test_a_server_that_goes_silent_costs_no_more_than_the_budgets",
    ),
    Mutation(
        "G6", "there is no window", "_runtime/_connection.py",
        "trio.Semaphore(window)", "trio.Semaphore(window * 1000)",
        "tests/runtime/test_connection.py::test_no_request_is_lost_by_a_peer_that_drops_beyond_128_in_flight",
    ),
    Mutation(
        "G6", "an overload is not recognised", "_core/_rpc.py",
        "    -32001: errors.ServerBusyError,\n", "",
        "tests/core/test_rpc.py::test_the_code_alone_tells_the_class_whatever_the_data",
    ),
    Mutation(
        "G7", "a cancelled write is forgotten half-way", "_runtime/_outbox.py",
        "        letter.taken = True\n", "        letter.taken = False\n",
        "tests/runtime/test_connection.py::test_a_call_can_be_taken_back_until_the_writer_has_it",
    ),
    Mutation(
        "G7", "the rest of a line is forgotten", "_runtime/_outbox.py",
        "            self._rest = letter.line[sent:]\n", "            self._rest = letter.line[:0]\n",
        "tests/runtime/test_outbox.py::test_lines_reach_a_stream_whole_and_in_order_whoever_writes_them",
    ),
    Mutation(
        "G7", "a line is written between the halves of another", "_runtime/_outbox.py",
        "        if not self._idle or self._send_nowait is None:\n", "        if self._send_nowait is None:\n",
        "tests/runtime/test_outbox.py::test_lines_reach_a_stream_whole_and_in_order_whoever_writes_them",
    ),
    Mutation(
        "G7", "callers write themselves", "_runtime/_connection.py",
        '        call.letter = self._outbox.put(line, urgent=lane == "control", on_taken=on_taken)\n',
        '        call.letter = self._outbox.put(b"")\n        await self._send_stream.send_all(line)\n',
        "tests/runtime/test_connection.py::test_a_caller_that_is_cancelled_while_its_line_is_being_written_leaves_it_whole",
    ),
    Mutation(
        "G8", "a callback that fails denies nothing", "_runtime/_dispatch.py",
        "                self._send(request.id, handler.denial)\n", "                pass\n",
        "tests/runtime/test_dispatch.py::test_a_callback_that_raises_denies_and_fails_its_group_once",
    ),
    Mutation(
        "G8", "a withdrawn request keeps its callback", "_runtime/_dispatch.py",
        'entry.why_withdrawn = "the server withdrew it"\n            entry.scope.cancel()\n', "pass\n",
        "tests/runtime/test_dispatch.py::test_a_request_that_is_withdrawn_while_its_callback_waits_cancels_it_and_gets_no_answer",
    ),
    Mutation(
        "G9", "commands are accepted by default", "_requests/_server_requests.py",
        '_DECLINED: Final = _decided("decline")', '_DECLINED: Final = _decided("accept")',
        "tests/faults/test_fault_matrix.py::test_whatever_the_server_asks_is_answered_and_nothing_is_granted",
    ),
    Mutation(
        "G10", "nothing is merged", "_runtime/_subscriptions.py",
        "        if len(self._buffer) >= self._lag:", "        if len(self._buffer) >= 1e9:",
        "tests/faults/test_load.py::test_deltas_that_nobody_reads_are_merged_without_loss_while_everything_else_goes_on",
    ),
    Mutation(
        "G10", "merged text is lost", "_runtime/_subscriptions.py",
        "        growing.text.write(text)\n", "",
        "tests/faults/test_load.py::test_deltas_that_nobody_reads_are_merged_without_loss_while_everything_else_goes_on",
    ),
    Mutation(
        "G11", "an unknown status raises", "_turns/_turn_result.py",
        "    except ValueError:\n        return told", "    except ValueError:\n        raise",
        "tests/faults/test_fault_matrix.py::test_a_turn_that_ends_in_an_unknown_way_has_ended",
    ),
    Mutation(
        "G12", "other characters end a line, too", "_core/_framing.py",
        'bytes(chunk).split(b"\\n")', 'bytes(chunk).replace(b"\\r", b"\\n").split(b"\\n")',
        "tests/core/test_framing.py::test_nothing_but_a_newline_ends_a_line",
    ),
    Mutation(
        "G12", "lines have no bound", "_core/_framing.py",
        "            self._unfinished = bytearray(_head(self._unfinished[:OVERSIZE_HEAD_BYTES] + piece))\n",
        "            self._unfinished += piece\n",
        "tests/core/test_framing.py::test_a_line_beyond_the_bound_is_not_held_in_memory",
    ),
    Mutation(
        "G13", "stderr is not drained", "_client/_open.py",
        "                services.start_service(process.drain_stderr)\n", "",
        "tests/faults/test_fault_matrix.py::test_a_server_that_is_only_odd_does_its_work_and_is_ended",
    ),
    Mutation(
        "G14", "what the body raises is wrapped in a group", "_runtime/_nursery.py",
        "becomes its context.\n        raise error\n",
        'becomes its context.\n        raise BaseExceptionGroup("the client", [error])\n',
        "tests/runtime/test_nursery.py::test_what_the_body_raises_leaves_as_itself",
    ),
    Mutation(
        "G15", "a worker thread starts the server", "_runtime/_guarded.py",
        "    async def drain_stderr(self) -> None:\n        await trio.lowlevel.checkpoint()\n",
        "    async def drain_stderr(self) -> None:\n        await trio.to_thread.run_sync(os.getpid)\n",
        "tests/test_cancellation.py::test_a_start_up_cancelled_at_any_checkpoint_leaves_nothing",
    ),
    Mutation(
        "G15", "asyncio is imported", "_runtime/_connection.py",
        "import logging\n", "import asyncio\nimport logging\n",
        "tests/test_layering.py::test_importing_the_client_imports_no_other_runtime_and_no_optional_package",
    ),
    Mutation(
        "G16", "nobody waits for another first start", "_runtime/_start_gate.py",
        "                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)\n", "                pass\n",
        "tests/runtime/test_start_gate.py::test_sixteen_first_starts_on_one_fresh_home_all_succeed",
    ),
    Mutation(
        "G17", "a full buffer is read without a cancellation point", "_runtime/_subscriptions.py",
        "            await checkpoint_if_cancelled()\n        else:", "            pass\n        else:",
        "tests/runtime/test_subscriptions.py::test_a_read_that_lets_nobody_else_run_is_a_cancellation_point_too",
    ),
    Mutation(
        "G18", "configured values are shown", "_client/_open.py",
        '                text = text.replace(value, f"<{name}>")\n', "                pass\n",
        "tests/client/test_open.py::test_values_of_the_configured_environment_are_not_shown",
    ),
    Mutation(
        "G19", "a request gives up by itself", "_runtime/_connection.py",
        "        self._deadlines: Deadlines[Call] = Deadlines(request_timeout, self._expire)\n",
        "        self._deadlines: Deadlines[Call] = Deadlines(min(request_timeout, 600), self._expire)\n",
        "tests/test_deadlines.py::test_whoever_waits_waits_as_long_as_it_takes",
    ),
    Mutation(
        "G19", "what a person has to finish has the time of a request", "_client/_session.py",
        'timeout = float("inf") if lane_of(method) == "deferred" else self.config.request_timeout\n', "timeout = self.config.request_timeout\n",
        "tests/client/test_login.py::test_a_server_may_take_its_time_to_begin_a_login",
    ),
    Mutation(
        "G19", "a deadline is a bare number", "_turns/_turn.py",
        "        await self._state.ended.wait()\n        if self._state.lost:", "        with trio.move_on_after(1e9):\n            await self._state.ended.wait()\n        if self._state.lost:",
        "tests/test_deadlines.py::test_every_deadline_in_the_source_is_a_budget_of_the_caller_or_bounds_cleanup",
    ),
    Mutation(
        "G20", "the guard does not see the client's end", "_runtime/_guard.py",
        "            if not self.wait(None if deadline", "            if self.wait(None if deadline",
        "tests/runtime/test_guard.py::test_when_the_client_is_killed_nothing_is_left",
    ),
    Mutation(
        "API", "a callback that cannot be one is accepted", "policies/_policy.py",
        "            _check_callback(kind, getattr(self, kind))\n", "            pass\n",
        "tests/client/test_arguments.py::test_a_callback_that_is_no_async_function_is_refused_when_the_policy_is_made",
    ),
    Mutation(
        "API", "arguments are looked at when they are first used", "_client/_options.py",
        "        check_policies([policy])\n", "        check_policies([])\n",
        "tests/client/test_arguments.py::test_a_thread_is_not_started_with_an_option_of_the_wrong_type",
    ),
    Mutation(
        "API", "an image is lost without a word", "_turns/_inputs.py",
        '    if detail == "low":\n', '    if detail == "none":\n',
        "tests/turns/test_inputs.py::test_an_image_that_the_server_would_leave_out_is_a_warning_at_the_line_that_makes_it",
    ),
    Mutation(
        "G11", "notifications that the schema does not list have no type", "wire/_registry.py",
        '    "rawResponseItem/completed": "RawResponseItemCompletedNotification",\n', "",
        "tests/integration/test_real_turns.py::test_the_raw_items_of_the_model_arrive_typed",
    ),
    Mutation(
        "API", "a tool may have a name under which it is never offered", "_tools/_tool.py",
        "if self.namespace is None and self.name in _TAKEN_NAMES:", "if self.name in ():",
        "tests/tools/test_tools.py::test_a_name_of_the_servers_own_tools_is_refused_unless_it_is_in_a_namespace",
    ),
    Mutation(
        "API", "numbers in strings are refused", "_tools/_tool.py",
        ", spelled=True)", ")",
        "tests/tools/test_tools.py::test_numbers_that_come_as_strings_reach_the_tool_as_numbers",
    ),
    Mutation(
        "G9", "nobody may answer an unknown request", "_requests/_asking.py",
        "        kind = unknown_kind(method)\n",
        "        return _deny(approvals, entry, unknown_kind(method).denial, method)\n",
        "tests/requests/test_approvals.py::test_an_unknown_server_request_is_answered_by_whoever_takes_unknown_ones",
    ),
    Mutation(
        "G9", "a question shows a part of what would be granted", "cli/_questions.py",
        '    yield from (f"write {path}" for path in files.write or ())\n',
        '    yield from (f"write {path}" for path in (() if files.entries else files.write or ()))\n',
        "tests/cli/test_cli_questions.py::test_all_that_would_be_granted_is_shown_and_each_of_it_once",
    ),
]  # fmt: skip


def copy_tree(to):
    """Copy what the tests need to ``to``."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        else:
            shutil.copy(source, to / name)


async def run_tests(root, *tests):
    """Run tests of the tree at ``root``; give pytest's exit status and what it said. Nothing that they start is left."""
    argv = [
        sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not long", "--tb=line", *tests
    ]  # fmt: skip
    env = {**os.environ, "PYTHONPATH": str(root / "src"), "PYTHONDONTWRITEBYTECODE": "1"}
    process = spawn_server(argv, env=env, cwd=root)
    output = bytearray()
    try:
        with trio.fail_after(TEST_SECONDS):
            await process.started()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(process.drain_stderr)
                async for chunk in process.stdout:
                    output += chunk
                status = await process.wait()
                nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):  # bounded inside
            await process.kill_tree()
    return status, output.decode(errors="replace")


async def try_mutation(mutation):
    """Make one break, and give the status of its test and what pytest said."""
    with tempfile.TemporaryDirectory(prefix="trio-codex-mutation-") as directory:
        root = Path(directory)
        copy_tree(root)
        mutation.apply(root)
        return await run_tests(root, mutation.test)


async def main(*guarantees):
    survived = 0
    for mutation in MUTATIONS:
        if not guarantees or mutation.guarantee in guarantees:
            status, output = await try_mutation(mutation)
            verdict = "killed" if status == FAILED else "SURVIVED"
            survived += status != FAILED
            sys.stdout.write(f"{verdict:8}  {mutation.guarantee:3}  {mutation.what}\n")
            if status != FAILED:
                sys.stdout.write(output)
            sys.stdout.flush()
    return 1 if survived else 0


if __name__ == "__main__":
    sys.exit(trio.run(main, *sys.argv[1:]))
