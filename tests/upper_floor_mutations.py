"""Mutations of attachments, supervision, batches, and faces (G21 to G25)."""

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
    statement,
    value,
)

UPPER_FLOOR_MUTATIONS = [
    Mutation(
        "G21", "turns of a lost connection continue",
        "_api.lifecycle:ClientLifecycle._rescue", never("turns"),
        "tests/integration/test_real_attach.py::test_a_lost_connection_leaves_no_turn_running",
    ),
    Mutation(
        "G21", "a review that has ended occupies its thread forever",
        "_session.snapshot:newest_turn", never("_is_ended_review"),
        "tests/integration/test_real_rejoin.py::test_a_thread_can_be_resumed_and_used_after_a_review",
    ),
    Mutation(
        "G21", "requests for other clients go to the client's policy",
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
        "G21", "a pending request is answered after its turn's scope exited",
        "_session.ending:TurnEnder.release", drop("park_requests"),
        "tests/turns/test_leave_running.py::test_after_the_scope_exits_only_a_thread_policy_answers_and_only_later_requests",
    ),
    Mutation(
        "G21", "a request made after its turn's scope exited is decided immediately",
        "_session.asking:_belongs_to_others", operand("is_left_running"),
        "tests/integration/test_real_rejoin.py::test_a_request_made_after_a_turn_was_left_running_waits_until_it_is_rejoined",
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
        "tests/integration/test_real_rejoin.py::test_a_call_to_another_clients_tool_is_left_to_that_client",
    ),
    Mutation(
        "G21", "a tool that has returned runs again",
        "_session.asking:_deciders", keyword("may_be_repeated", becomes="False"),
        "tests/integration/test_real_rejoin.py::test_a_tool_call_that_the_server_repeats_does_not_run_again_in_the_same_process",
    ),
    Mutation(
        "G21", "agents of a rejoined turn keep running",
        "_session.rejoining:follow", iterable("children"),
        "tests/integration/test_real_rejoin.py::test_rejoining_with_end_true_also_ends_the_agents_of_the_turn",
    ),
    Mutation(
        "G21", "the goal of a rejoined turn continues",
        "_session.rejoining:end_rejoined", value("was_paused", becomes="False"),
        "tests/integration/test_real_rejoin.py::test_rejoining_with_end_true_pauses_the_goal_of_the_turn",
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
        "tests/supervision/test_kills.py::test_a_turn_whose_server_died_does_not_count_as_left_by_the_program",
    ),
    Mutation(
        "G23", "a turn that a drain did not wait for counts as interrupted by the program",
        "supervision._generations:Generations.drain", value("_program_ends", becomes="False"),
        "tests/supervision/test_real_supervision.py::test_a_turn_left_after_a_drain_continues_in_the_next_program",
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
        "tests/supervision/test_real_kills.py::test_a_rollout_without_its_last_lines_yields_a_correct_answer_or_an_error",
    ),
    Mutation(
        "G23", "a stopped server is treated as dead",
        "supervision._fence:_resume", value("is_gone", becomes="True"),
        "tests/supervision/test_real_recovery.py::test_a_first_turn_on_a_stuck_server_is_not_started_on_another",
    ),
    Mutation(
        "G23", "a failed prompt is sent again when it is continued",
        "supervision._rule:OpenThread.decide", read("continue_with", "prompt.value"),
        "tests/supervision/test_real_supervision.py::test_a_prompt_that_failed_for_a_transient_reason_can_be_continued_by_any_program",
    ),
    Mutation(
        "G23", "a key may stand for another prompt",
        "supervision._rule:OpenThread.decide", never("digest"),
        "tests/supervision/test_real_supervision.py::test_a_key_identifies_one_prompt",
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
        "G24", "the workspace of an outcome stays if the batch's scope exits",
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
        "tests/batch/test_merge.py::test_equal_outcomes_may_be_in_several_shards_and_open_attempts_are_closed",
    ),
    Mutation(
        "G24", "text of a task ends the data element of a report",
        "batch._report:_data", constant("\\u003c", "<"),
        "tests/batch/test_reports.py::test_a_report_shows_every_task_with_the_transcripts_and_times_of_its_attempts",
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
        "G24", "tasks run again although a lost worker has sent their outcome",
        "batch.ray:_Driver._store", call("pop", becomes="share.left.get(outcome.task.id)"),
        "tests/beyond/test_ray.py::test_a_killed_worker_is_replaced_and_only_its_open_tasks_run_again",
        needs="ray",
    ),
    Mutation(
        "G24", "a driver on Ray that ends leaves its workers running",
        "batch.ray:_Driver.run", drop("_end_all"),
        "tests/beyond/test_ray.py::test_outcomes_arrive_immediately_and_turns_end_on_the_server_when_the_driver_ends",
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
        "tests/beyond/test_inspect.py::test_the_log_contains_messages_tool_calls_and_usage",
        needs="inspect_ai",
    ),
    Mutation(
        "G24", "Inspect scores a failed turn",
        "inspect._agent:_Setup.run", never("failed"),
        "tests/beyond/test_inspect.py::test_a_failed_turn_is_an_error_of_its_sample",
        needs="inspect_ai",
    ),
    Mutation(
        "G25", "a scope whose generator is collected in the client's thread stays open",
        "_face.face:Scope.exit", drop("_leave_soon"),
        "tests/faces/test_face_callers.py::test_a_generator_that_is_collected_in_the_clients_thread_leaves_its_scope",
    ),
    Mutation(
        "G25", "leaving a scope of a face does not wait for its cleanup",
        "_face.face:Scope._leave", statement("exited", becomes="pass"),
        "tests/faces/test_face_scopes.py::test_a_cancelled_task_continues_only_after_its_scope_has_ended",
    ),
    Mutation(
        "G25", "Ctrl-C during the first start leaves a thread behind",
        "_face.face:Scope.enter", statement("prepare", becomes="pass"),
        "tests/faces/test_face_hosts.py::test_ctrl_c_while_the_first_client_starts_leaves_no_thread_behind",
    ),
    Mutation(
        "G25", "after a deadline in a thread the program continues before the call has ended",
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
