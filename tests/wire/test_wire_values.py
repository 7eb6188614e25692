"""Every value can be compared, copied, changed and pickled, and its repr contains no secret."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import attrs
import pytest
from hypothesis import given
from wire_classes import CLASSES, QUICK, name_of

from trio_codex import wire
from trio_codex.testing.strategies import wire_values
from trio_codex.wire._base import Shape, Wire

TEXT = wire.TextUserInput(text="do it")


def test_values_are_compared_by_class_and_content() -> None:
    assert wire.TextUserInput(text="do it") == TEXT
    assert wire.TextUserInput(text="do not") != TEXT
    assert TEXT != "do it"
    assert wire.IdleThreadStatus() != wire.NotLoadedThreadStatus()
    assert wire.TurnInterruptResponse() != wire.ThreadArchiveResponse()


def test_values_are_frozen_and_not_hashable() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        TEXT.text = "other"  # type: ignore[misc]
    with pytest.raises(TypeError, match="unhashable"):
        hash(TEXT)


def test_evolve_changes_a_copy() -> None:
    assert TEXT.evolve(text="other") == wire.TextUserInput(text="other")
    assert TEXT.text == "do it"
    with pytest.raises(TypeError):
        TEXT.evolve(no_such_field=1)


def test_values_match_as_patterns() -> None:
    match wire.decode(wire.ThreadItem, {"type": "plan", "id": "1", "text": "step"}):
        case wire.PlanThreadItem(text=text, type="plan"):
            assert text == "step"
        case other:
            pytest.fail(repr(other))


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_values_can_be_copied_and_pickled(again: Any) -> None:
    value = wire.TurnStartParams(
        thread_id="t", input=[TEXT], approval_policy=wire.ApprovalPolicy.never, service_tier=wire.NULL
    )
    assert again(value) == value
    assert again(value).service_tier is wire.NULL
    assert again(value).approval_policy is wire.ApprovalPolicy.never


def test_null_is_falsy_and_its_repr_is_its_name() -> None:
    assert not wire.NULL
    assert repr(wire.NULL) == "NULL"


def test_a_repr_shows_the_given_fields() -> None:
    value = wire.TurnInterruptParams(thread_id="t", turn_id="u")
    assert repr(value) == "TurnInterruptParams(thread_id='t', turn_id='u')"


def test_a_repr_omits_defaults_and_tags() -> None:
    assert repr(wire.IdleThreadStatus()) == "IdleThreadStatus()"
    assert repr(wire.ThreadListParams(limit=5)) == "ThreadListParams(limit=5)"


SECRET = "s3cr3t-s3cr3t"


@pytest.mark.parametrize(
    "value",
    [
        wire.TextUserInput(text=SECRET),
        wire.ImageUserInput(url=SECRET),
        wire.TurnStartParams(thread_id="t", input=[wire.TextUserInput(text=SECRET)]),
        wire.TurnStartParams(
            thread_id="t",
            input=[],
            additional_context={"key": wire.AdditionalContextEntry(value=SECRET, kind="application")},
        ),
        wire.ThreadStartParams(
            developer_instructions=SECRET, base_instructions=SECRET, config={"key": SECRET}
        ),
        wire.ApiKeyLoginAccountParams(api_key=SECRET),
        wire.ChatgptAuthTokensLoginAccountParams(access_token=SECRET, chatgpt_account_id="id"),
        wire.ChatgptAuthTokensRefreshResponse(access_token=SECRET, chatgpt_account_id="id"),
        wire.ChatgptLoginAccountResponse(auth_url=SECRET, login_id="id"),
        wire.ChatgptAccount(email=SECRET, plan_type="pro"),
        wire.AmazonBedrockAccessKeysLoginAccountParams(
            access_key_id=SECRET, region="r", secret_access_key=SECRET
        ),
        wire.AttestationGenerateResponse(token=SECRET),
        wire.CommandExecParams(command=["sh", "-c", SECRET], env={"TOKEN": SECRET}),
        wire.ProcessSpawnParams(command=[SECRET], cwd="/", process_handle="p", env={"TOKEN": SECRET}),
        wire.McpServerOauthLoginResponse(authorization_url=SECRET),
        wire.EnvironmentAddParams(environment_id="e", exec_server_url="ws://", auth_bearer_token=SECRET),
        wire.AgentMessageDeltaNotification(delta=SECRET, item_id="i", thread_id="t", turn_id="u"),
        wire.AgentMessageThreadItem(id="i", text=SECRET),
        wire.ToolRequestUserInputResponse(answers={"q": wire.ToolRequestUserInputAnswer(answers=[SECRET])}),
        wire.DynamicToolCallParams(
            arguments={"key": SECRET}, call_id="c", thread_id="t", tool="x", turn_id="u"
        ),
        wire.AsyncUserInputQuestion(title=SECRET, options=[SECRET]),
        wire.ToolRequestUserInputQuestion(
            id="q",
            header=SECRET,
            question=SECRET,
            options=[wire.ToolRequestUserInputOption(label=SECRET, description=SECRET)],
        ),
        wire.ApprovedExecpolicyAmendmentReviewDecision(proposed_execpolicy_amendment=[SECRET]),
        wire.DeniedReviewDecision(rejection=SECRET),
        wire.FindInPageWebSearchAction(pattern=SECRET, url=SECRET),
        wire.OpenPageWebSearchAction(url=SECRET),
        wire.Config(additional={"mcp_servers": SECRET}),
        wire.UnknownVariant(tag="later", raw={"text": SECRET}),
        wire.UnknownNotification(method="later", raw={"text": SECRET}),
        wire.UnknownServerRequest(method="later", raw={"text": SECRET}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_repr_contains_no_secret(value: Wire) -> None:
    assert SECRET in str(attrs.asdict(value))
    assert SECRET not in repr(value)
    assert "<elided" in repr(value)


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("four", "<elided: 4 characters>"),
        (["one"], "<elided: 1 item>"),
        ({"a": 1, "b": 2}, "<elided: 2 items>"),
        (7, "<elided>"),
        (None, "None"),
    ],
)
def test_an_elided_value_shows_at_most_its_size(value: object, shown: str) -> None:
    assert repr(wire.UnknownVariant(tag="t", raw=value)) == f"UnknownVariant(tag='t', raw={shown})"


@attrs.frozen(kw_only=True, eq=False, repr=False)
class Cleared(Wire):
    """A class with an elided field that accepts null."""

    prompt: str | wire.Null | None = None

    __wire__ = Shape(elided=frozenset({"prompt"}), clears=frozenset({"prompt"}))


def test_null_is_not_elided() -> None:
    assert repr(Cleared(prompt=wire.NULL)) == "Cleared(prompt=NULL)"


@pytest.mark.parametrize("cls", CLASSES[::23], ids=name_of)
def test_every_kind_of_value_can_be_pickled(cls: type[Wire]) -> None:
    @QUICK
    @given(wire_values(cls))
    def check(value: Wire) -> None:
        assert pickle.loads(pickle.dumps(value)) == value

    check()
