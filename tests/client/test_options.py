"""Options of threads and turns: their wire format, and refusals before anything is sent."""

import re
import typing
from pathlib import Path

import attrs
import pytest
import trio

from trio_codex import ApprovalMode, CodexConfig, ExternalMessage, Sandbox, errors, wire
from trio_codex._api import options as options
from trio_codex.testing import fake_codex
from trio_codex.wire import _convert


def sent(params):
    return _convert.encode(params)


def test_options_that_are_not_given_are_not_sent():
    assert sent(options.start_params({})) == {}
    assert sent(options.resume_params("t", {})) == {"threadId": "t", "excludeTurns": True}
    assert sent(options.fork_params("t", {"model": None})) == {"threadId": "t", "excludeTurns": True}
    assert sent(options.turn_params("t", "hi", {"output_schema": None})) == {
        "threadId": "t",
        "input": [{"type": "text", "text": "hi", "text_elements": []}],
    }
    assert sent(options.list_params(None, None, {})) == {}


def test_history_is_loaded_on_request():
    assert sent(options.resume_params("t", {"include_turns": True}))["excludeTurns"] is False
    assert sent(options.fork_params("t", {"include_turns": True}))["excludeTurns"] is False


def test_policies_and_budgets_are_not_sent():
    assert sent(options.start_params({"policy": object(), "budget": object()})) == {}


@pytest.mark.parametrize(
    ("mode", "policy", "reviewer"),
    [
        (ApprovalMode.deny_all, "never", None),
        (ApprovalMode.ask, "on-request", "user"),
        (ApprovalMode.auto_review, "on-request", "auto_review"),
        ("deny_all", "never", None),
    ],
)
def test_an_approval_mode_is_a_policy_and_a_reviewer(mode, policy, reviewer):
    expected = {"approvalPolicy": policy, **({"approvalsReviewer": reviewer} if reviewer else {})}
    assert sent(options.start_params({"approval_mode": mode})) == expected
    turn = sent(options.turn_params("t", "hi", {"approval_mode": mode}))
    assert {key: value for key, value in turn.items() if key.startswith("approval")} == expected


def test_bypassing_approvals_also_disables_the_sandbox():
    mode = ApprovalMode.dangerously_bypass
    assert sent(options.start_params({"approval_mode": mode})) == {
        "approvalPolicy": "never",
        "sandbox": "danger-full-access",
    }
    turn = sent(options.turn_params("t", "hi", {"approval_mode": mode}))
    assert turn["sandboxPolicy"] == {"type": "dangerFullAccess"}


@pytest.mark.parametrize(
    "given",
    [
        {"approval_mode": "whatever"},
        {"approval_mode": ApprovalMode.ask, "approval_policy": "never"},
        {"approval_mode": ApprovalMode.deny_all, "approvals_reviewer": "user"},
        {"approval_mode": ApprovalMode.dangerously_bypass, "sandbox": Sandbox.read_only},
        {"approval_mode": ApprovalMode.dangerously_bypass, "permissions": ":read-only"},
        {"sandbox": Sandbox.read_only, "permissions": ":read-only"},
        {"sandbox": "full-access"},
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "params",
    [
        options.start_params,
        lambda given: options.resume_params("t", given),
        lambda given: options.fork_params("t", given),
        lambda given: options.turn_params("t", "hi", given),
        lambda given: options.settings_params("t", given),
    ],
    ids=["start", "resume", "fork", "turn", "settings"],
)
def test_contradictory_options_are_refused(params, given):
    with pytest.raises(ValueError, match=r"not one of|pass only one of them|are mutually exclusive"):
        params(given)


def test_the_end_points_of_a_fork_are_mutually_exclusive():
    with pytest.raises(ValueError, match="are mutually exclusive"):
        options.fork_params("t", {"last_turn_id": "a", "before_turn_id": "b"})


def test_the_sandbox_of_a_turn_may_be_a_preset_a_name_or_a_policy():
    own = wire.WorkspaceWriteSandboxPolicy(network_access=True)
    for given, expected in (
        (Sandbox.workspace_write, {"type": "workspaceWrite"}),
        ("read-only", {"type": "readOnly"}),
        (own, {"type": "workspaceWrite", "networkAccess": True}),
    ):
        policy = sent(options.settings_params("t", {"sandbox": given}))["sandboxPolicy"]
        assert expected.items() <= policy.items()


def test_a_tier_can_be_cleared():
    assert sent(options.settings_params("t", {"service_tier": wire.NULL}))["serviceTier"] is None


def test_option_names_of_the_official_sdk_are_accepted():
    params = options.turn_params("t", "hi", {"source": "cron", "turn_service_tier": "fast"})
    assert (params.turn_trigger, params.service_tier_for_turn) == ("cron", "fast")


def test_paths_may_be_path_objects():
    assert options.start_params({"cwd": Path("/x")}).cwd == "/x"
    assert options.list_params(None, 1, {"cwd": Path("/x")}).cwd == "/x"
    assert options.list_params(None, 1, {"cwd": ["/x", Path("/y")]}).cwd == ["/x", "/y"]


@pytest.mark.parametrize(
    "params",
    [
        options.start_params,
        lambda given: options.turn_params("t", "hi", given),
        lambda given: options.list_params(None, None, given),
    ],
    ids=["start", "turn", "list"],
)
def test_an_unknown_option_is_a_type_error(params):
    with pytest.raises(TypeError, match="no option 'modle'"):
        params({"modle": "x"})


OURS = {"policy", "tools", "idle_limit", "budget", "approval_mode"}


@pytest.mark.parametrize(
    ("kind", "params", "renamed", "left_out"),
    [
        (
            options.ThreadStartOptions,
            wire.ThreadStartParams,
            {},
            {"mock_experimental_field", "multi_agent_mode"},  # test-only; deprecated and ignored
        ),
        (
            options.ThreadResumeOptions,
            wire.ThreadResumeParams,
            {"include_turns": "exclude_turns"},
            {
                "thread_id",
                "history",
                "path",
                "initial_turns_page",
            },  # unstable, not meant for clients; see Thread.turns
        ),
        (
            options.ThreadForkOptions,
            wire.ThreadForkParams,
            {"include_turns": "exclude_turns"},
            {"thread_id", "path", "personality"},
        ),
        (
            options.TurnOptions,
            wire.TurnStartParams,
            {
                "sandbox": "sandbox_policy",
                "source": "turn_trigger",
                "turn_service_tier": "service_tier_for_turn",
            },
            {"thread_id", "input", "tool_output", "multi_agent_mode"},
        ),
        (
            options.ThreadSettings,
            wire.ThreadSettingsUpdateParams,
            {"sandbox": "sandbox_policy"},
            {"thread_id", "multi_agent_mode"},
        ),
        (options.ThreadFilters, wire.ThreadListParams, {}, {"cursor", "limit"}),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else "",
)
def test_every_parameter_of_the_schema_is_an_option_or_omitted_for_a_reason(kind, params, renamed, left_out):
    names = {renamed.get(name, name) for name in kind.__annotations__} - OURS
    fields = {field.name for field in attrs.fields(params)}
    assert names | left_out == fields | ({"personality"} if kind is options.ThreadForkOptions else set())
    assert names.isdisjoint(left_out - {"personality"})


def test_every_option_is_documented_directly_or_by_reference():
    for kind in vars(options).values():
        if typing.is_typeddict(kind) and not kind.__name__.startswith("_"):
            pages = [
                other
                for name in re.findall(r"class:`(\w+)`", kind.__doc__)
                if (other := vars(options).get(name))
            ]
            described = "".join(page.__doc__ for page in [kind, *pages])
            assert all(f"{name}:" in described for name in kind.__annotations__), kind


# -- versions ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "too_old"),
    [
        ("0.150.9", True),
        ("0.151.0-alpha.3", True),
        ("0.151.0", False),
        ("0.163.0", False),
        ("1.0.0", False),
        ("0.0.0", False),  # a build without a version
    ],
)
@pytest.mark.parametrize(
    ("value", "given", "what"),
    [
        ("hi", {"source": "cron"}, "source"),
        ("hi", {"turn_service_tier": "fast"}, "turn_service_tier"),
        (ExternalMessage("mail", "hello"), {}, "an ExternalMessage"),
    ],
    ids=["source", "tier", "external"],
)
async def test_an_option_that_an_older_server_would_ignore_is_refused_before_it_is_sent(
    version, too_old, value, given, what
):
    with trio.fail_after(5):
        async with fake_codex(CodexConfig(), version=version) as (codex, server):
            thread = await codex.thread_start()
            assert codex.metadata.server_version == version
            if too_old:
                with pytest.raises(errors.ServerTooOld) as caught:
                    thread.turn(value, **given)
                assert (caught.value.what, caught.value.found) == (what, version)
            else:
                thread.turn(value, **given)
            thread.turn("hi")
            assert server.unexpected() == []
