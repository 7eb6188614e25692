"""Mutations of one client and its own server (G1 to G20)."""

from mutation_operations import (
    Mutation,
    always,
    call,
    catches,
    condition,
    constant,
    drop,
    iterable,
    keyword,
    never,
    operand,
    read,
    returns,
    start,
    statement,
    value,
    without_key,
)

CLIENT_MUTATIONS = [
    Mutation(
        "G1", "the guard does not adopt orphans of the server",
        "_process.guard:PR_SET_CHILD_SUBREAPER", constant(36, 0),
        "tests/runtime/test_process_stop.py::test_processes_left_behind_by_the_server_are_killed_and_stdout_ends",
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
        "tests/runtime/test_hosts.py::test_the_guard_ends_everything_without_pidfd_or_proc",
    ),
    Mutation(
        "G1", "a forked child keeps stdin open",
        "_process.pipes:PipeSendStream.close", drop("shutdown"),
        "tests/runtime/test_pipes.py::test_closing_is_seen_although_a_forked_copy_holds_the_descriptor",
    ),
    Mutation(
        "G1", "a full disk causes a traceback",
        "cli._commands:_run", catches("OSError", "EOFError"),
        "tests/cli/test_cli_streams.py::test_a_full_disk_is_reported_on_one_line",
    ),
    Mutation(
        "G2", "a turn whose scope exits early is not interrupted",
        "_session.ending:TurnEnder._insist_on_interrupt", call("interrupt", becomes="trio.lowlevel.checkpoint()"),
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
        "tests/faults/test_process_trees.py::test_an_agents_command_ends_with_the_interrupted_turn_that_spawned_the_agent",
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
        "_api.thread_requests:close_if_unfollowed", operand("pending"),
        "tests/client/test_opening.py::test_a_pending_resume_keeps_the_thread_subscribed_when_its_only_handle_closes",
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
        "_link.connection:Connection._read", statement("_take_portion", becomes="_\nwhile receiver._dispatcher._open: await trio.sleep(0.01)"),
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
        "G5", "a long environment value delays the shutdown",
        "_core.secrets:_without_rest", call("_overlap", becomes="max(n for n in range(len(value)) if text.startswith(value[len(value) - n :]))"),
        "tests/client/test_open.py::test_redaction_takes_linear_time_in_the_length_of_a_value",
    ),
    Mutation(
        "G6", "the number of pending requests has no limit",
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
        "G6", "a barrier whose refusal is lost is waited for forever",
        "_link.calls:Calls._send", never("_barrier"),
        "tests/runtime/test_flow.py::test_a_barrier_whose_refusal_is_lost_is_repeated",
    ),
    Mutation(
        "G6", "a request whose caller has left is sent again",
        "_link.calls:Calls._retry_later", operand("unwanted"),
        "tests/runtime/test_flow.py::test_a_request_that_was_to_be_withdrawn_is_not_repeated",
    ),
    Mutation(
        "G6", "a wait for credits has no bound",
        "_link.calls:Calls._queue", never("waits"),
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
        "tests/runtime/test_dispatch.py::test_withdrawing_a_request_cancels_its_waiting_callback_and_sends_no_answer",
    ),
    Mutation(
        "G8", "requests of a thread being resumed are not held",
        "_session.router:Router.on_server_request", operand("_is_held"),
        "tests/client/test_opening.py::test_a_pending_file_change_contains_the_content_from_the_resume_response",
    ),
    Mutation(
        "G8", "requests from another client's turn are answered",
        "_session.asking:_belongs_to_others", operand("is_shared"),
        "tests/client/test_opening.py::test_on_a_shared_server_requests_from_another_clients_turn_are_left_to_that_client",
    ),
    Mutation(
        "G8", "requests from unknown turns are answered",
        "_session.asking:_belongs_to_others", operand("has_peers"),
        "tests/client/test_opening.py::test_on_a_shared_server_requests_outside_the_clients_turns_are_left_to_others",
    ),
    Mutation(
        "G9", "commands are accepted by default",
        "_session.request_kinds:_DECLINED", constant("decline", "accept"),
        "tests/faults/test_fault_matrix.py::test_every_server_request_is_answered_and_nothing_is_granted",
    ),
    Mutation(
        "G9", "an accepted git command runs the repository's fsmonitor",
        "policies._git:PREFIX", constant("core.fsmonitor=false", "core.fsmonitor2=false"),
        "tests/policies/test_git.py::test_an_accepted_command_runs_no_program_from_the_repository_although_plain_git_does",
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
        "G10", "state of unopened threads is kept forever",
        "_session.threads:UnknownThreads.grow", never("UNKNOWN_BYTES"),
        "tests/client/test_opening.py::test_turns_of_unopened_threads_use_bounded_memory",
    ),
    Mutation(
        "G10", "state of agents of unopened threads is kept forever",
        "_session.threads:UnknownThreads._forget", iterable("children"),
        "tests/client/test_opening.py::test_agents_of_turns_of_unopened_threads_use_bounded_memory",
    ),
    Mutation(
        "G10", "deltas are not merged",
        "_link.subscriptions:Subscription.put", never("_lag"),
        "tests/faults/test_load.py::test_unread_deltas_are_merged_without_loss_while_everything_else_continues",
    ),
    Mutation(
        "G10", "merged text is lost",
        "_link.subscriptions:Subscription._put_delta", drop("write"),
        "tests/faults/test_load.py::test_unread_deltas_are_merged_without_loss_while_everything_else_continues",
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
        "G11", "an unknown status raises",
        "_values.turn_result:_status", catches("ValueError", "EOFError"),
        "tests/faults/test_fault_matrix.py::test_a_turn_with_an_unknown_terminal_status_has_ended",
    ),
    Mutation(
        "G11", "notifications missing from the schema have no type",
        "wire._registry", without_key("rawResponseItem/completed"),
        "tests/integration/test_real_turns.py::test_raw_response_items_are_typed",
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
        "tests/faults/test_fault_matrix.py::test_an_odd_but_working_server_completes_the_session_and_is_stopped",
    ),
    Mutation(
        "G14", "a process tree that does not end in time is reported as an internal error",
        "_api.lifecycle:ClientLifecycle._watch", catches("ClosedResourceError", "trio.BusyResourceError"),
        "tests/client/test_open_on_hosts.py::test_a_process_tree_that_does_not_end_in_time_does_not_change_the_bodys_exception",
    ),
    Mutation(
        "G14", "exceptions from the body are wrapped in a group",
        "_link.services:open_services", statement("_choose", becomes="_\nerror = error and BaseExceptionGroup('the client', [error])"),
        "tests/runtime/test_nursery.py::test_exceptions_from_the_body_propagate_unchanged",
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
        "_core.secrets:Secrets.hide_in_tail", drop("_without"),
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
        "tests/test_recording.py::test_another_users_file_is_refused_and_left_unchanged",
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
        "tests/test_recording.py::test_only_the_size_of_a_message_nested_too_deeply_is_recorded",
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
        "API", "a tool may have a name that the server never offers",
        "_tools.tool:Tool.__attrs_post_init__", never("_TAKEN_NAMES"),
        "tests/tools/test_tools.py::test_a_name_of_a_server_tool_is_rejected_outside_a_namespace",
    ),
    Mutation(
        "API", "numbers in strings are refused",
        "_tools.tool:Tool.bind", keyword("spelled", becomes="False"),
        "tests/tools/test_tools.py::test_numbers_sent_as_strings_reach_the_tool_as_numbers",
    ),
]  # fmt: skip
