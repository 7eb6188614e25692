"""Mutations that each break a guarantee, with the test that must fail: the proof that guarantees are tested.

A mutation names a function and an operation (``mutation_operations.py``), so it survives formatting and moved lines.
If its function is renamed or moved, ``tests/test_mutations.py`` suggests the new place.

Run all with ``python tests/mutations.py``, or some with the numbers of guarantees (``G3 G8``). Each mutation is made
in a copy of the tree. An import hook would not do: the guard runs with ``-I -S``, which ignores hooks, and some tests
read the source. Mutations of what needs Ray or Inspect are skipped where they are missing.
"""

import os
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import attrs
import trio

from mutation_operations import (
    always,
    call,
    catches,
    condition,
    constant,
    drop,
    iterable,
    keyword,
    mutated,
    never,
    operand,
    read,
    returns,
    start,
    statement,
    value,
    without_key,
)
from trio_codex._process.spawn import spawn_server

ROOT = Path(__file__).parents[1]
COPIED = ("src", "tests", "docs", "examples", "pyproject.toml", "README.md")

TEST_SECONDS = 120
FAILED = 1
"""The exit status of pytest for "some tests failed". Any other status means that they could not be run."""


@attrs.frozen
class Mutation:
    """One mutation.

    Attributes:
        guarantee: The number of the guarantee that it breaks.
        what: How the code misbehaves then.
        where: A module below ``trio_codex`` and a function or variable in it, such as ``_link.calls:Calls.end``.
        operation: The change.
        test: The test that must fail.
        needs: A module that it needs, and that the environment of developers may not have.
    """

    guarantee: str
    what: str
    where: str
    operation: object
    test: str
    needs: str | None = None

    def apply(self, root):
        """Apply the mutation to the copy of the tree below ``root``."""
        path, source = mutated(root / "src" / "trio_codex", self.where, self.operation)
        path.write_text(source)


MUTATIONS = [
    Mutation(
        "G1", "the guard does not adopt orphans of the server",
        "_process.guard:PR_SET_CHILD_SUBREAPER", constant(36, 0),
        "tests/runtime/test_process_stop.py::test_processes_left_behind_by_the_server_are_ended_and_stdout_ends",
    ),
    Mutation(
        "G1", "stdin stays open",
        "_process.server:ServerProcess.stop", drop("_close_stdin"),
        "tests/runtime/test_process_stop.py::test_a_cooperative_server_ends_on_eof",
    ),
    Mutation(
        "G1", "SIGTERM is never sent",
        "_process.server:ServerProcess._end_server", drop("terminate"),
        "tests/runtime/test_process_stop.py::test_stopping_escalates_until_the_server_ends",
    ),
    Mutation(
        "G1", "a guard keeps the blocked signals of the client",
        "_process.guard:main", drop("pthread_sigmask"),
        "tests/runtime/test_hosts.py::test_the_end_of_the_server_is_noticed_however_sigchld_is_handled",
    ),
    Mutation(
        "G1", "the guard has no supervisor",
        "_process.guard:keep", condition("waitpid", becomes="_ and False"),
        "tests/runtime/test_hosts.py::test_nothing_survives_a_killed_guard_not_even_orphans",
    ),
    Mutation(
        "G1", "without a process table no children are found",
        "_process.guard:Guard.signal_all", always("table_is_ours"),
        "tests/runtime/test_hosts.py::test_the_guard_ends_everything_on_a_system_without",
    ),
    Mutation(
        "G1", "a forked child keeps stdin open",
        "_process.pipes:PipeSendStream.close", drop("shutdown"),
        "tests/runtime/test_pipes.py::test_closing_is_seen_although_a_forked_copy_holds_the_descriptor",
    ),
    Mutation(
        "G14", "a process tree that does not end in time is reported as an internal error",
        "_api.lifecycle:ClientLifecycle._watch", catches("ClosedResourceError", "trio.BusyResourceError"),
        "tests/client/test_open_on_hosts.py::test_a_process_tree_that_does_not_end_in_time_does_not_change_the_bodys_exception",
    ),
    Mutation(
        "G1", "a full disk causes a traceback",
        "cli._commands:_run", catches("OSError", "EOFError"),
        "tests/cli/test_cli_streams.py::test_a_full_disk_is_reported_on_one_line",
    ),
    Mutation(
        "G2", "a turn that is left is not interrupted",
        "_session.ending:TurnEnder._interrupt_until_ended", call("interrupt", becomes="trio.lowlevel.checkpoint()"),
        "tests/turns/test_turn.py::test_leaving_early_interrupts_once_and_waits_for_the_terminal_event",
    ),
    Mutation(
        "G2", "an accepted interrupt counts as the end",
        "_session.ending:TurnEnder._interrupt_until_ended", statement("ended", "wait", becomes="return"),
        "tests/turns/test_turn.py::test_leaving_early_interrupts_once_and_waits_for_the_terminal_event",
    ),
    Mutation(
        "G2", "a refused interrupt is not sent again",
        "_session.ending:TurnEnder._retry_until_accepted", always("no active turn"),
        "tests/integration/test_real_turns.py::test_an_interrupt_right_after_the_start_is_not_lost",
    ),
    Mutation(
        "G2", "agents are not ended",
        "_session.ending:TurnEnder.end_offspring", iterable("children"),
        "tests/faults/test_process_trees.py::test_the_command_of_an_agent_ends_with_the_interrupted_turn_that_spawned_the_agent",
    ),
    Mutation(
        "G2", "background commands are not ended",
        "_session.ending:TurnEnder.end_offspring", iterable("terminals"),
        "tests/integration/test_real_turns.py::test_cancelling_a_turn_ends_its_background_command_but_none_of_earlier_turns",
    ),
    Mutation(
        "G2", "an idle handle ends another handle's turn",
        "_api.thread:Thread._has_to_end", returns("True", "opener"),
        "tests/client/test_opening.py::test_leaving_an_idle_handle_does_not_end_work_of_another_handle",
    ),
    Mutation(
        "G2", "a turn already running at the resume is steered",
        "_session.snapshot:take_snapshot", drop("begin_turn"),
        "tests/client/test_opening.py::test_a_turn_in_progress_in_a_resume_response_blocks_new_turns_until_it_has_ended",
    ),
    Mutation(
        "G2", "a thread is unsubscribed while a resume is pending",
        "_api.thread:Thread._close", operand("pending"),
        "tests/client/test_opening.py::test_a_pending_resume_keeps_the_thread_subscribed_when_its_only_handle_is_left",
    ),
    Mutation(
        "G3", "opening a thread is not undone if its response is invalid",
        "_api.thread_requests:_undo_unread", drop("undo"),
        "tests/client/test_opening.py::test_an_opening_with_an_invalid_response_is_undone",
    ),
    Mutation(
        "G3", "a cancelled opening of a thread is not undone",
        "_session.server:Server.acquire", never("take_back"),
        "tests/client/test_client.py::test_opening_a_thread_is_undone_if_cancelled",
    ),
    Mutation(
        "G3", "entering a login has a checkpoint after its start",
        "_api.login:LoginHandle.__aenter__", call("cancel_shielded_checkpoint", becomes="trio.lowlevel.checkpoint()"),
        "tests/client/test_login.py::test_a_login_entered_in_a_cancelled_scope_is_cancelled_on_the_server",
    ),
    Mutation(
        "G3", "the turn of a cancelled turn/start is not ended",
        "_session.ending:TurnEnder._was_started", statement("wait_any", becomes="return False"),
        "tests/turns/test_turn.py::test_a_cancelled_start_waits_for_the_answer_and_interrupts_the_turn",
    ),
    Mutation(
        "G4", "the reader waits for callbacks",
        "_link.connection:Connection._take_lines", statement("_take_portion", becomes="_\nwhile receiver._dispatcher._open: await trio.sleep(0.01)"),
        "tests/requests/test_approvals.py::test_fifty_pending_approvals_block_nothing_and_are_answered_in_any_order",
    ),
    Mutation(
        "G4", "a log handler that raises ends the session",
        "_core.log:SafeLogger.log", statement("_report", becomes="raise"),
        "tests/requests/test_reader.py::test_a_log_handler_that_raises_does_not_end_the_session",
    ),
    Mutation(
        "G4", "a session imports from disk",
        "_api.loading:load", drop("hold"),
        "tests/client/test_loading.py::test_a_session_of_every_kind_imports_nothing",
    ),
    Mutation(
        "G5", "waiting tasks are not woken at the end",
        "_link.calls:Calls.end", drop("settle"),
        "tests/runtime/test_connection_end.py::test_at_the_end_of_the_stream_every_wait_fails_within_a_second_with_its_own_exception",
    ),
    Mutation(
        "G5", "waiting tasks share one exception object",
        "_link.call:CloseReason.exception", returns("self._error"),
        "tests/runtime/test_connection_end.py::test_a_close_reason_creates_a_new_exception_each_time",
    ),
    Mutation(
        "G5", "a server left behind is not reported",
        "_process.channel:ProcessChannel.explain", read("pid", becomes="None"),
        "tests/faults/test_fault_matrix.py::test_with_a_silent_server_no_call_exceeds_its_timeout",
    ),
    Mutation(
        "G6", "requests have no window",
        "_link.calls:Calls.__init__", call("FlowControl", becomes="FlowControl(1000 * window)"),
        "tests/runtime/test_connection.py::test_the_window_bounds_pending_requests_however_fast_the_peer_reads",
    ),
    Mutation(
        "G6", "a cancelled request returns its credits immediately",
        "_link.calls:Calls.settled", statement("line", becomes="_\nself._flow.refused(call.queued_line)"),
        "tests/runtime/test_flow.py::test_lines_of_cancelled_requests_count_until_a_later_one_is_answered",
    ),
    Mutation(
        "G6", "no barriers are sent",
        "_link.flow:FlowControl.needs_barrier", returns("False"),
        "tests/runtime/test_flow.py::test_replies_are_never_delayed_but_count_as_unread_lines",
    ),
    Mutation(
        "G6", "a refusal acknowledges earlier lines",
        "_link.calls:Calls.take_reply", call("refused", becomes="self._flow.acknowledge(call.queued_line)"),
        "tests/runtime/test_flow.py::test_a_refusal_acknowledges_no_other_line",
    ),
    Mutation(
        "G6", "a refusal for overload is final",
        "_link.calls:Calls.take_reply", never("ServerBusyError"),
        "tests/runtime/test_flow.py::test_a_request_refused_for_overload_is_repeated_until_accepted",
    ),
    Mutation(
        "G6", "a wait for credits has no bound",
        "_link.calls:Calls._queue", never("holds"),
        "tests/runtime/test_flow.py::test_if_the_server_stops_reading_all_calls_fail_within_their_timeout",
    ),
    Mutation(
        "G6", "an overload error is not recognized",
        "_core.rpc", without_key(-32001),
        "tests/core/test_rpc.py::test_the_code_alone_determines_the_error_class",
    ),
    Mutation(
        "G7", "a cancelled write drops the rest of its line",
        "_link.write_queue:WriteQueue._take", value("taken", becomes="False"),
        "tests/runtime/test_connection_writing.py::test_a_call_can_be_withdrawn_until_the_writer_has_its_line",
    ),
    Mutation(
        "G7", "the rest of a partial line is dropped",
        "_link.write_queue:WriteQueue._send_now", value("_rest", becomes="_[:0]"),
        "tests/runtime/test_outbox.py::test_lines_reach_a_stream_whole_and_in_order_whichever_task_writes_them",
    ),
    Mutation(
        "G7", "a line is written into the middle of another",
        "_link.write_queue:WriteQueue._send_now", never("_idle"),
        "tests/runtime/test_outbox.py::test_lines_reach_a_stream_whole_and_in_order_whichever_task_writes_them",
    ),
    Mutation(
        "G8", "a callback that fails denies nothing",
        "_link.dispatch:Dispatcher._answer", drop("_send", "denial"),
        "tests/runtime/test_dispatch.py::test_a_callback_that_raises_denies_and_fails_its_group_once",
    ),
    Mutation(
        "G8", "the callback of a withdrawn request is not cancelled",
        "_link.dispatch:Dispatcher.withdraw", drop("cancel"),
        "tests/runtime/test_dispatch.py::test_a_request_that_is_withdrawn_while_its_callback_waits_cancels_it_and_gets_no_answer",
    ),
    Mutation(
        "G8", "requests of a thread being resumed are not held",
        "_session.router:Router.on_server_request", operand("_is_held"),
        "tests/client/test_opening.py::test_a_pending_file_change_has_the_content_from_the_resume_response",
    ),
    Mutation(
        "G8", "requests of another client's turn are answered",
        "_session.asking:_belongs_to_others", operand("is_shared"),
        "tests/client/test_opening.py::test_attached_requests_of_another_clients_turn_are_left_to_that_client",
    ),
    Mutation(
        "G8", "requests of unknown turns are answered",
        "_session.asking:_belongs_to_others", operand("has_peers"),
        "tests/client/test_opening.py::test_attached_requests_outside_own_turns_are_left_to_others",
    ),
    Mutation(
        "G9", "commands are accepted by default",
        "_session.request_kinds:_DECLINED", constant("decline", "accept"),
        "tests/faults/test_fault_matrix.py::test_every_server_request_is_answered_and_nothing_is_granted",
    ),
    Mutation(
        "G10", "state of unopened threads is kept forever",
        "_session.threads:UnknownThreads.grow", never("UNKNOWN_BYTES"),
        "tests/client/test_opening.py::test_turns_of_unopened_threads_use_bounded_memory",
    ),
    Mutation(
        "G9", "an accepted git command runs the repository's fsmonitor",
        "policies._git:PREFIX", constant("core.fsmonitor=false", "core.fsmonitor2=false"),
        "tests/policies/test_git.py::test_an_accepted_command_runs_no_program_of_the_repository_where_plain_git_does",
    ),
    Mutation(
        "G9", "a git pattern accepts programs that the repository configures",
        "policies._commands:allow_commands", call("tuple", "program", becomes="read"),
        "tests/policies/test_commands.py::test_a_pattern_for_git_accepts_nothing_and_warns_unless_repositories_are_trusted",
    ),
    Mutation(
        "G9", "any git option is accepted",
        "policies._git:allow_git", operand("fullmatch"),
        "tests/policies/test_git.py::test_only_options_that_are_known_to_be_read_only_are_accepted",
    ),
    Mutation(
        "G9", "roots are resolved at each decision",
        "policies._paths:Roots.hold", read("_roots", becomes="map(_resolved, self._shown.split(os.pathsep))"),
        "tests/policies/test_paths.py::test_a_root_keeps_its_target_from_the_creation_of_the_policy",
    ),
    Mutation(
        "G9", "links in /proc are followed",
        "policies._paths:_resolved", operand("/proc"),
        "tests/policies/test_paths.py::test_a_link_through_proc_is_outside_every_root",
    ),
    Mutation(
        "G9", "relative paths are resolved in the current directory of this process",
        "_values.paths:PathBase.absolute", call("join", becomes="os.path.abspath(expanded)"),
        "tests/client/test_relative_paths.py",
    ),
    Mutation(
        "G10", "deltas are not merged",
        "_link.subscriptions:Subscription.put", never("_lag"),
        "tests/faults/test_load.py::test_deltas_that_nobody_reads_are_merged_without_loss_while_everything_else_continues",
    ),
    Mutation(
        "G10", "merged text is lost",
        "_link.subscriptions:Subscription._put_delta", drop("write"),
        "tests/faults/test_load.py::test_deltas_that_nobody_reads_are_merged_without_loss_while_everything_else_continues",
    ),
    Mutation(
        "G10", "responses pile up if the server does not read",
        "_link.connection:Connection._reply", never("QUEUED_REPLY_BYTES"),
        "tests/runtime/test_connection_end.py::test_a_server_that_sends_requests_and_does_not_read_ends_the_connection",
    ),
    Mutation(
        "G10", "audit records are bounded only in number",
        "_session.audit:Audit.add", operand("DECISIONS_BYTES"),
        "tests/requests/test_audit.py::test_kept_records_are_bounded_in_bytes",
    ),
    Mutation(
        "G5", "a long environment value delays the shutdown",
        "_core.secrets:_without_rest", call("_overlap", becomes="max(n for n in range(len(value)) if text.startswith(value[len(value) - n :]))"),
        "tests/client/test_open.py::test_redaction_takes_linear_time_in_the_length_of_a_value",
    ),
    Mutation(
        "G11", "an unknown status raises",
        "_values.turn_result:_status", catches("ValueError", "EOFError"),
        "tests/faults/test_fault_matrix.py::test_a_turn_that_ends_in_an_unknown_way_has_ended",
    ),
    Mutation(
        "G12", "characters other than newline end a line",
        "_core.framing:LineBuffer.feed", start("chunk = bytes(chunk).replace(b'\\r', b'\\n')"),
        "tests/core/test_framing.py::test_only_a_newline_ends_a_line",
    ),
    Mutation(
        "G12", "line length is unbounded",
        "_core.framing:LineBuffer._keep", statement("_head", becomes="self._unfinished += piece"),
        "tests/core/test_framing.py::test_a_line_beyond_the_bound_is_not_held_in_memory",
    ),
    Mutation(
        "G13", "stderr is not drained",
        "_api.lifecycle:ClientLifecycle._spawn", drop("drain_stderr"),
        "tests/faults/test_fault_matrix.py::test_an_odd_but_working_server_completes_the_session_and_is_ended",
    ),
    Mutation(
        "G14", "exceptions of the body are wrapped in a group",
        "_link.services:open_services", statement("_choose", becomes="_\nerror = error and BaseExceptionGroup('the client', [error])"),
        "tests/runtime/test_nursery.py::test_exceptions_of_the_body_propagate_unchanged",
    ),
    Mutation(
        "G15", "a worker thread starts the server",
        "_process.guarded:GuardedProcess.drain_stderr", call("checkpoint", becomes="trio.to_thread.run_sync(os.getpid)"),
        "tests/test_cancellation.py::test_cancelling_the_startup_anywhere_leaves_nothing_behind",
    ),
    Mutation(
        "G15", "asyncio is imported",
        "_link.connection", start("import asyncio"),
        "tests/test_layering.py::test_importing_the_client_imports_no_other_async_library_and_no_optional_package",
    ),
    Mutation(
        "G16", "concurrent first starts do not wait for one another",
        "_process.start_gate:_acquire", drop("flock"),
        "tests/runtime/test_start_gate.py::test_sixteen_concurrent_first_starts_on_one_new_home_all_succeed",
    ),
    Mutation(
        "G17", "reading from a full buffer has no checkpoint",
        "_link.subscriptions:Subscription.__anext__", drop("checkpoint_if_cancelled"),
        "tests/runtime/test_subscriptions.py::test_a_read_that_does_not_yield_is_a_cancellation_point_too",
    ),
    Mutation(
        "G18", "configured values are printed",
        "_core.secrets:Secrets.hide_in_tail", drop("replace"),
        "tests/client/test_open.py::test_values_of_the_configured_environment_are_not_shown",
    ),
    Mutation(
        "G18", "configured values are printed in errors",
        "_link.connection:Connection._take_other", drop("hide_in_error"),
        "tests/client/test_open.py::test_values_of_the_configured_environment_are_not_shown_in_refusals",
    ),
    Mutation(
        "G18", "names in user-defined maps are taken for protocol names",
        "recording._redaction:_vocabulary", operand("Mapping["),
        "tests/test_recording_redaction.py::test_every_value_in_a_user_defined_map_is_removed",
    ),
    Mutation(
        "G18", "root records into another user's file",
        "recording._recorder:_open", operand("hasattr", becomes="not _"),
        "tests/test_recording.py::test_another_users_file_is_refused_and_unchanged",
    ),
    Mutation(
        "G18", "a recording follows links",
        "recording._recorder:_open", call("O_NOFOLLOW", becomes="0"),
        "tests/test_recording.py::test_a_recording_is_not_written_through_symbolic_or_hard_links",
    ),
    Mutation(
        "G18", "a recording is replaced silently",
        "recording._recorder:_open", never("overwrite"),
        "tests/test_recording.py::test_an_existing_recording_is_replaced_only_on_request",
    ),
    Mutation(
        "G18", "a deeply nested message ends the recording",
        "recording._recorder:Recorder._note_line", never("_is_deep"),
        "tests/test_recording.py::test_of_a_message_nested_too_deeply_only_the_size_is_recorded",
    ),
    Mutation(
        "G18", "times restart with each run of Trio",
        "recording._recorder:_Clock.seconds", condition("run", "_run", becomes="self._run is None"),
        "tests/test_recording.py::test_times_continue_across_several_runs_of_trio",
    ),
    Mutation(
        "G19", "a request has a timeout of its own",
        "_link.calls:Calls.__init__", value("_request_timeout", becomes="min(_, 600)"),
        "tests/test_deadlines.py::test_waiting_has_no_time_limit",
    ),
    Mutation(
        "G19", "waiting for a person has the request timeout",
        "_session.server:Server.acquire", never("request_class_of"),
        "tests/client/test_login.py::test_starting_a_login_may_take_longer_than_the_request_timeout",
    ),
    Mutation(
        "G19", "a stall counts against the server",
        "_link.timeouts:Timeouts._note_lateness", drop("_stalled"),
        "tests/runtime/test_timeouts.py::test_the_time_of_a_stall_is_added_to_every_pending_timeout_and_logged",
    ),
    Mutation(
        "G19", "timeouts expire before buffered responses are read",
        "_link.timeouts:Timeouts.watch", drop("_wait_for_reader"),
        "tests/runtime/test_timeouts.py::test_nothing_expires_while_the_reader_has_bytes_to_read",
    ),
    Mutation(
        "G19", "a plain cancel scope is used as a server timeout",
        "_session.ending:TurnEnder.end_turn", value("scope", becomes="trio.move_on_after(self._server.config.interrupt_grace)"),
        "tests/test_deadlines.py::test_no_plain_cancel_scope_is_used_as_a_server_timeout",
    ),
    Mutation(
        "G19", "a deadline is a bare number",
        "_api.turn:TurnHandle.wait_ended", statement("ended", "wait", becomes="with trio.move_on_after(1e9): _"),
        "tests/test_deadlines.py::test_every_deadline_in_the_source_is_set_by_the_caller_or_bounds_cleanup",
    ),
    Mutation(
        "G20", "the guard does not notice the client's end",
        "_process.guard:Guard.watch", condition("wait", becomes="not _"),
        "tests/runtime/test_guard.py::test_when_the_client_is_killed_nothing_is_left",
    ),
    Mutation(
        "G21", "turns of a lost connection continue",
        "_api.lifecycle:ClientLifecycle._rescue", never("turns"),
        "tests/integration/test_real_attach.py::test_a_lost_connection_leaves_no_turn_running",
    ),
    Mutation(
        "G21", "requests of other clients go to the client's policy",
        "_session.asking:resolve", value("is_others", becomes="False"),
        "tests/integration/test_real_shared.py::test_another_client_decides_an_approval_only_with_a_policy_for_that_thread",
    ),
    Mutation(
        "G21", "a turn that is left running is interrupted",
        "_api.turn:open_turn", never("outlives_scope"),
        "tests/turns/test_leave_running.py::test_a_turn_left_running_is_not_interrupted_and_keeps_its_thread_busy",
    ),
    Mutation(
        "G21", "closing the client ends what was left running",
        "_session.state:TurnState.ends_with_scope", operand("outlives_scope", becomes="True"),
        "tests/turns/test_leave_running.py::test_a_turn_left_running_is_not_interrupted_and_keeps_its_thread_busy",
    ),
    Mutation(
        "G21", "a limit does not end a turn that may be left running",
        "_api.turn:open_turn", operand("has_failed", becomes="True"),
        "tests/turns/test_leave_running.py::test_exceeding_a_limit_ends_a_turn_despite_leave_running",
    ),
    Mutation(
        "G21", "a pending request is answered after its turn was left",
        "_session.ending:TurnEnder.release", drop("park_requests"),
        "tests/turns/test_leave_running.py::test_after_leaving_pending_requests_are_not_answered_and_later_ones_only_by_a_thread_policy",
    ),
    Mutation(
        "G21", "a request made after its turn was left is decided immediately",
        "_session.asking:_belongs_to_others", operand("is_left_running"),
        "tests/integration/test_real_rejoin.py::test_a_request_made_after_a_turn_was_left_waits_until_it_is_rejoined",
    ),
    Mutation(
        "G21", "a rejoined result contains only the observed items",
        "_session.router:Router._route_to_thread", never("is_partial"),
        "tests/turns/test_rejoin.py::test_a_rejoined_turn_begins_with_a_gap_and_its_result_is_complete",
    ),
    Mutation(
        "G21", "items of another turn are included",
        "_session.history:History.complete", always("goes_by"),
        "tests/turns/test_rejoin.py::test_a_rejoined_turn_begins_with_a_gap_and_its_result_is_complete",
    ),
    Mutation(
        "G21", "a parked request is not delivered again",
        "_session.rejoining:follow", never("has_parked"),
        "tests/turns/test_rejoin.py::test_the_clients_policy_applies_while_the_turn_is_rejoined_and_its_failure_ends_the_scope",
    ),
    Mutation(
        "G21", "a rejoin does not wait for a turn that is about to start",
        "_session.rejoining:find_turn", iterable("LOOKS"),
        "tests/turns/test_rejoin.py::test_a_rejoin_waits_for_a_turn_that_is_about_to_start",
    ),
    Mutation(
        "G21", "leaving a rejoined turn ends it",
        "_api.rejoin:rejoin_turn", always("ends", "was_live"),
        "tests/turns/test_rejoin.py::test_leaving_a_rejoined_turn_sends_nothing_and_it_can_be_rejoined_again",
    ),
    Mutation(
        "G21", "a cancelled entry ends the turn",
        "_api.rejoin:rejoin_turn", condition("ends", becomes="end and was_live"),
        "tests/test_cancellation.py::test_cancelling_a_rejoined_turn_anywhere_ends_it_only_if_requested",
    ),
    Mutation(
        "G21", "a turn is taken away from its scope",
        "_api.rejoin:rejoin_turn", value("adopted", becomes="not turn.ended.is_set()"),
        "tests/turns/test_rejoin.py::test_rejoining_a_turn_that_another_scope_owns_only_watches_it",
    ),
    Mutation(
        "G21", "calls of other clients' tools are answered with a failure",
        "_session.asking:resolve", value("is_rejoined", becomes="False"),
        "tests/integration/test_real_rejoin.py::test_a_call_of_another_clients_tool_is_left_to_that_client",
    ),
    Mutation(
        "G21", "a tool that has returned runs again",
        "_session.asking:_deciders", keyword("may_be_repeated", becomes="False"),
        "tests/integration/test_real_rejoin.py::test_a_tool_call_that_the_server_repeats_does_not_run_again_in_the_same_process",
    ),
    Mutation(
        "G21", "agents of a rejoined turn keep running",
        "_session.rejoining:follow", iterable("children"),
        "tests/integration/test_real_rejoin.py::test_rejoining_with_end_also_ends_the_agents_of_the_turn",
    ),
    Mutation(
        "G21", "the goal of a rejoined turn continues",
        "_session.rejoining:end_rejoined", value("was_paused", becomes="False"),
        "tests/integration/test_real_rejoin.py::test_rejoining_with_end_pauses_the_goal_of_the_turn",
    ),
    Mutation(
        "G22", "a turn continues without a message about the lost generation",
        "supervision._turn:SupervisedTurn.lose", drop("_gaps"),
        "tests/supervision/test_kills.py::test_events_of_an_ended_generation_do_not_reach_a_turn",
    ),
    Mutation(
        "G22", "restarts are not limited",
        "supervision._limit:RestartLimit.delay", value("is_too_much", becomes="False"),
        "tests/supervision/test_limits.py::test_a_burst_may_reach_the_restart_limit_but_not_exceed_it",
    ),
    Mutation(
        "G22", "a drain admits turns",
        "supervision._turnstile:Turnstile.enter", never("drains"),
        "tests/supervision/test_limits.py::test_a_drain_waits_for_open_turns_up_to_its_timeout_and_admits_nested_ones",
    ),
    Mutation(
        "G22", "a thread that crashes the server is retried forever",
        "supervision._generations:Generations._count_strikes", drop("quarantined"),
        "tests/supervision/test_real_recovery.py::test_a_thread_that_crashes_the_server_runs_alone_and_is_quarantined_and_others_continue",
    ),
    Mutation(
        "G23", "a turn whose scope a death ended counts as left by the program",
        "supervision._scope:with_task", statement("leave", becomes="leave(body_error)"),
        "tests/supervision/test_kills.py::test_a_turn_whose_scope_a_death_ends_is_not_taken_for_one_that_the_program_has_left",
    ),
    Mutation(
        "G23", "a turn whose message may have reached the model is kept",
        "supervision._history:take_back_tail", drop("revert"),
        "tests/supervision/test_kills.py::test_the_model_receives_a_prompt_once_wherever_the_server_dies",
    ),
    Mutation(
        "G23", "a prompt is not recorded before it is sent",
        "supervision._attempt:Attempt.run", drop("sending"),
        "tests/supervision/test_kills.py::test_the_model_receives_a_prompt_once_wherever_the_server_dies",
    ),
    Mutation(
        "G23", "a prompt that ran is sent again if the history lacks it",
        "supervision._rule:OpenThread._without_turn", always("sending"),
        "tests/supervision/test_real_kills.py::test_a_rollout_without_its_last_lines_gives_a_correct_answer_or_an_error",
    ),
    Mutation(
        "G23", "a stopped server is treated as dead",
        "supervision._fence:_resume", value("is_gone", becomes="True"),
        "tests/supervision/test_real_recovery.py::test_a_first_turn_on_a_stuck_server_is_not_started_on_another",
    ),
    Mutation(
        "G23", "a key may stand for another prompt",
        "supervision._rule:OpenThread.decide", never("digest"),
        "tests/supervision/test_real_supervision.py::test_a_key_identifies_one_prompt",
    ),
    Mutation(
        "API", "an invalid callback is accepted",
        "policies._policy:Policy.__attrs_post_init__", drop("_check_callback"),
        "tests/client/test_arguments.py::test_a_callback_that_is_not_an_async_function_is_refused_by_the_policy",
    ),
    Mutation(
        "API", "arguments are checked only on first use",
        "_api.options:check_given", call("check_policies", becomes="check_policies([])"),
        "tests/client/test_arguments.py::test_a_thread_is_not_started_with_an_option_of_the_wrong_type",
    ),
    Mutation(
        "API", "an image is dropped silently",
        "_values.inputs:_warn_of_low", constant("low", "none"),
        "tests/turns/test_inputs.py::test_an_image_that_the_server_would_drop_warns_at_the_line_that_creates_it",
    ),
    Mutation(
        "G11", "notifications missing from the schema have no type",
        "wire._registry", without_key("rawResponseItem/completed"),
        "tests/integration/test_real_turns.py::test_raw_response_items_are_typed",
    ),
    Mutation(
        "API", "a tool may have a name that the server never offers",
        "_tools.tool:Tool.__attrs_post_init__", never("_TAKEN_NAMES"),
        "tests/tools/test_tools.py::test_a_name_of_a_server_tool_is_rejected_outside_a_namespace",
    ),
    Mutation(
        "API", "numbers in strings are refused",
        "_tools.tool:Tool.bind", keyword("spelled", becomes="False"),
        "tests/tools/test_tools.py::test_numbers_sent_as_strings_reach_the_tool_as_numbers",
    ),
    Mutation(
        "G9", "unknown requests are refused without asking the policy",
        "_session.asking:resolve", statement("unknown_kind", becomes="return _deny(approvals, entry, unknown_kind(method).denial, method)"),
        "tests/requests/test_approvals.py::test_an_unknown_server_request_is_answered_by_the_callback_for_unknown_ones",
    ),
    Mutation(
        "G9", "a question shows only some of the requested permissions",
        "cli._questions:_wanted", iterable("write", becomes="() if files.entries else _"),
        "tests/cli/test_cli_questions.py::test_every_requested_permission_is_shown_exactly_once",
    ),
    Mutation(
        "G24", "a task with an outcome runs again",
        "batch._journal:Journal.todo", constant(
            "select task from tasks where id not in (select id from outcomes) order by state in ('ended', 'over'), rowid",
            "select task from tasks order by state in ('ended', 'over'), rowid",
        ),
        "tests/batch/test_real_batches.py::test_a_task_with_an_outcome_is_not_run_again",
    ),
    Mutation(
        "G24", "a turn interrupted by a crash counts as an outcome",
        "batch._engine:Engine._judge", never("_DEATHS"),
        "tests/batch/test_real_batches.py::test_every_task_has_one_outcome_although_the_server_is_killed",
    ),
    Mutation(
        "G24", "an attempt of an earlier process starts over",
        "batch._engine:Engine._attempt", value("is_resumed", becomes="False"),
        "tests/batch/test_real_batches.py::test_leaving_a_batch_early_ends_its_turns_and_the_next_run_resumes",
    ),
    Mutation(
        "G24", "a task that crashes the server never runs alone",
        "batch._engine:Engine._complete", keyword("alone", becomes="False"),
        "tests/batch/test_real_batches.py::test_a_task_that_crashes_the_server_runs_alone_before_it_is_quarantined",
    ),
    Mutation(
        "G24", "a batch that leaves tasks undone ends without an error",
        "batch._batch:Batch.__anext__", never("left"),
        "tests/batch/test_real_batches.py::test_a_usage_limit_stops_the_batch_and_the_next_run_resumes",
    ),
    Mutation(
        "G24", "changed settings go unnoticed",
        "batch._journal:Journal.begin", never("differences"),
        "tests/batch/test_real_batches.py::test_another_batch_in_the_same_directory_is_refused_before_anything_is_started",
    ),
    Mutation(
        "G24", "threads stay loaded in the server",
        "batch._attempt:Attempt.archive", never("_thread_id"),
        "tests/batch/test_real_batches.py::test_threads_of_ended_tasks_are_unloaded",
    ),
    Mutation(
        "G24", "the workspace of an outcome stays if the batch is left",
        "batch._attempt:Attempt._remove", catches("Cancelled", "ZeroDivisionError"),
        "tests/batch/test_real_ends.py::test_leaving_the_batch_still_removes_workspaces_of_finished_tasks",
    ),
    Mutation(
        "G24", "agents see each other's files if a task chooses its sandbox",
        "batch._context:TaskThread.turn", never("workspace_write"),
        "tests/batch/test_real_ends.py::test_the_sandbox_cannot_write_to_temporary_directories",
    ),
    Mutation(
        "G24", "tokens used by an earlier process are not counted",
        "batch._attempt:Attempt._record", value("current", becomes="used"),
        "tests/batch/test_real_ends.py::test_tokens_are_counted_once_across_runs_and_attempts",
    ),
    Mutation(
        "G24", "leaving a batch records outcomes for interrupted tasks",
        "batch._batch:open_batch", never("engine"),
        "tests/batch/test_real_batches.py::test_leaving_a_batch_early_ends_its_turns_and_the_next_run_resumes",
    ),
    Mutation(
        "G24", "conflicting shards are merged",
        "batch._merge:_owners", never("differences"),
        "tests/batch/test_merge.py::test_incompatible_shards_raise_an_error_that_names_the_difference",
    ),
    Mutation(
        "G24", "an outcome in another shard is lost in the merge",
        "batch._merge:_owners", never("outcomes"),
        "tests/batch/test_merge.py::test_equal_outcomes_may_be_in_several_shards_and_open_attempts_are_ended",
    ),
    Mutation(
        "G24", "text of a task ends the data element of a report",
        "batch._report:_data", constant("\\u003c", "<"),
        "tests/batch/test_reports.py::test_a_report_has_every_task_with_the_transcripts_and_times_of_its_attempts",
    ),
    Mutation(
        "G24", "a cancelled shard ends as if it were complete",
        "batch._shard:_run", never("cancelled_caught"),
        "tests/beyond/test_shards.py::test_cancelling_a_shard_from_another_thread_ends_its_turns_on_the_server",
    ),
    Mutation(
        "G24", "an exception that cannot be pickled leaves a shard",
        "batch._shard:_portable", statement("loads", becomes="pass"),
        "tests/beyond/test_shards.py::test_an_exception_that_cannot_be_pickled_is_replaced_by_one_that_can",
    ),
    Mutation(
        "G24", "tasks of a lost worker are not run elsewhere",
        "batch.ray:_Driver._is_lost", returns("False", "share"),
        "tests/beyond/test_ray.py::test_a_killed_worker_is_replaced_and_only_its_open_tasks_run_again",
        needs="ray",
    ),
    Mutation(
        "G24", "tasks whose outcome a lost worker has sent run again",
        "batch.ray:_Driver._store", call("pop", becomes="share.left.get(outcome.task.id)"),
        "tests/beyond/test_ray.py::test_a_killed_worker_is_replaced_and_only_its_open_tasks_run_again",
        needs="ray",
    ),
    Mutation(
        "G24", "the log of Inspect lacks a response that a limit cuts off",
        "inspect._agent:_Setup.run", statement("cut", becomes="pass"),
        "tests/beyond/test_inspect.py::test_limits_end_the_turn_on_the_server_and_its_output_so_far_is_scored",
        needs="inspect_ai",
    ),
    Mutation(
        "G24", "Inspect counts tokens again with each response",
        "inspect._record:Record.response", value("_before", becomes="self._before"),
        "tests/beyond/test_inspect.py::test_the_log_has_messages_tool_calls_and_usage",
        needs="inspect_ai",
    ),
    Mutation(
        "G24", "Inspect scores a failed turn",
        "inspect._agent:_Setup.run", never("failed"),
        "tests/beyond/test_inspect.py::test_a_failed_turn_is_an_error_of_its_sample",
        needs="inspect_ai",
    ),
    Mutation(
        "G25", "leaving a scope of a face does not wait for its cleanup",
        "_face.face:Scope._leave", statement("exited", becomes="pass"),
        "tests/faces/test_face_scopes.py::test_after_ctrl_c_the_caller_never_continues_before_the_scope_has_ended",
    ),
    Mutation(
        "G25", "Ctrl-C during the first start leaves a thread behind",
        "_face.face:Scope.enter", statement("prepare", becomes="pass"),
        "tests/faces/test_face_hosts.py::test_ctrl_c_while_the_first_client_starts_leaves_no_thread_behind",
    ),
    Mutation(
        "G25", "a deadline in a thread continues before the call has ended",
        "blocking._face:_Operation.wait", statement("expired", "interruption", becomes="return Expired(expired)"),
        "tests/faces/test_face_hosts.py::test_a_deadline_ends_the_waiting_call_before_the_program_continues",
    ),
    Mutation(
        "G25", "KeyboardInterrupt is raised inside the code of a face",
        "blocking._interrupts:Interrupts._handle", never("PROTECTED"),
        "tests/faces/test_face_scopes.py::test_after_ctrl_c_the_caller_never_continues_before_the_scope_has_ended",
    ),
    Mutation(
        "G25", "a cancelled task continues before cleanup has finished",
        "aio._face:_Operation.wait", statement("first", "exc", becomes="return exc"),
        "tests/faces/test_face_scopes.py::test_a_cancelled_task_continues_only_after_its_scope_has_ended",
    ),
]  # fmt: skip


def copy_tree(to):
    """Copy everything the tests need to ``to``."""
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, to / name, ignore=shutil.ignore_patterns("__pycache__", "_build"))
        else:
            shutil.copy(source, to / name)


async def run_tests(root, *tests):
    """Run tests of the tree at ``root``. Return pytest's exit status and output, and leave no process behind."""
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
    """Apply one mutation to a copy. Return the status of its test and pytest's output."""
    with tempfile.TemporaryDirectory(prefix="trio-codex-mutation-") as directory:
        root = Path(directory)
        copy_tree(root)
        mutation.apply(root)
        return await run_tests(root, mutation.test)


async def main(*guarantees):
    survived = 0
    for mutation in MUTATIONS:
        if not guarantees or mutation.guarantee in guarantees:
            if mutation.needs is not None and find_spec(mutation.needs) is None:
                sys.stdout.write(f"skipped   {mutation.guarantee:3}  {mutation.what}: no {mutation.needs}\n")
                continue
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
