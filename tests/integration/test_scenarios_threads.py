"""Scenarios from the official SDK's test suite about threads, approvals, inputs and logins, on the real server.

Test names contain the numbers of the scenarios.
"""

import base64
import struct
import zlib

import pytest
import trio
from real import is_since, offline, offline_parts

from trio_codex import (
    ApprovalMode,
    ImageInput,
    LocalImageInput,
    Sandbox,
    SkillInput,
    TextInput,
    errors,
    open_codex,
    wire,
)

pytestmark = pytest.mark.real


async def settings_of(codex, thread_id):
    """Return the state of an open thread on the server."""
    return await codex.api.thread.resume(thread_id=thread_id, exclude_turns=True)


# -- approvals and sandboxes ---------------------------------------------------------------------------------------


async def test_s18_deny_all_survives_a_resume():
    async with offline_parts(approval_policy="on-request") as (config, model, _):
        model.say("one")
        async with open_codex(config) as codex:
            thread = await codex.thread_start(approval_mode=ApprovalMode.deny_all)
            await thread.run("persist")
        async with open_codex(config) as codex:
            resumed = await codex.thread_resume(thread.id)
            assert (await settings_of(codex, resumed.id)).approval_policy == "never"


async def test_s19_a_fork_keeps_deny_all_unless_it_chooses_another_mode():
    async with offline(approval_policy="on-request") as (codex, model, _):
        model.say("one")
        thread = await codex.thread_start(approval_mode=ApprovalMode.deny_all)
        await thread.run("persist")
        fork = await thread.fork()
        assert (await settings_of(codex, fork.id)).approval_policy == "never"
        other = await thread.fork(approval_mode=ApprovalMode.auto_review)
        settings = await settings_of(codex, other.id)
        assert (settings.approval_policy, settings.approvals_reviewer) == ("on-request", "auto_review")


async def test_s20_a_bypass_survives_a_resume_and_a_bypass_set_by_a_turn_applies_to_the_thread():
    async def is_bypassed(codex, thread):
        settings = await settings_of(codex, thread.id)
        return settings.approval_policy == "never" and isinstance(
            settings.sandbox, wire.DangerFullAccessSandboxPolicy
        )

    mode = ApprovalMode.dangerously_bypass
    async with offline_parts(approval_policy="on-request") as (config, model, _):
        for _ in range(3):
            model.say("fine")
        async with open_codex(config) as codex:
            thread = await codex.thread_start(approval_mode=mode)
            await thread.run("persist")
            assert await is_bypassed(codex, thread)
            # A fork inherits the approval policy, and on newer servers also the sandbox.
            assert await is_bypassed(codex, await thread.fork()) == is_since("0.166.0")
            assert await is_bypassed(codex, await thread.fork(approval_mode=mode))
            other = await codex.thread_start()
            await other.run("as it is")
            assert not await is_bypassed(codex, other)
            await other.run("bypass from now on", approval_mode=mode)
            assert await is_bypassed(codex, other)
        async with open_codex(config) as codex:
            assert await is_bypassed(codex, await codex.thread_resume(thread.id))


async def test_s21_deny_all_refuses_a_write_outside_the_workspace_and_a_bypass_allows_it():
    # By default the workspace includes all of /tmp.
    narrow = {"sandbox_workspace_write": {"exclude_slash_tmp": True, "exclude_tmpdir_env_var": True}}
    async with offline(approval_policy="on-request", server_config=narrow) as (codex, model, home):
        outside = home.home / "written"
        for _ in range(2):
            model.run_command(f"echo x > {outside}")
            model.say("I tried")
        denied = await codex.thread_start(
            approval_mode=ApprovalMode.deny_all, sandbox=Sandbox.workspace_write
        )
        assert (await denied.run("write")).final_response == "I tried"
        assert not outside.exists()
        bypassing = await codex.thread_start(approval_mode=ApprovalMode.dangerously_bypass)
        assert (await bypassing.run("write")).final_response == "I tried"
        assert outside.read_text() == "x\n"


async def test_s22_a_bypass_with_an_explicit_sandbox_is_refused_before_anything_is_sent():
    contradiction = {"approval_mode": ApprovalMode.dangerously_bypass, "sandbox": Sandbox.read_only}
    async with offline() as (codex, model, _):
        model.say("one")
        thread = await codex.thread_start()
        await thread.run("persist")
        for call in (
            lambda: codex.thread_start(**contradiction),
            lambda: codex.thread_resume(thread.id, **contradiction),
            lambda: thread.fork(**contradiction),
            lambda: thread.run("hi", **contradiction),
            lambda: thread.update_settings(**contradiction),
        ):
            with pytest.raises(ValueError, match="dangerously_bypass"):
                await call()
        assert [stored.id async for stored in codex.threads()] == [thread.id]
        assert len([turn async for turn in thread.turns()]) == 1
        assert len(model.requests) == 1


async def test_s23_a_setting_made_by_a_turn_stays_until_it_is_changed():
    async with offline(approval_policy="on-request") as (codex, model, _):
        for _ in range(4):
            model.say("fine")
        thread = await codex.thread_start()
        seen = []
        for options in (
            {},
            {"approval_mode": ApprovalMode.deny_all},
            {},
            {"approval_mode": ApprovalMode.ask, "model": "another-model"},
        ):
            await thread.run("go", **options)
            settings = await settings_of(codex, thread.id)
            seen.append((settings.approval_policy, settings.model))
        assert seen == [
            ("on-request", "mock-model"),
            ("never", "mock-model"),
            ("never", "mock-model"),
            ("on-request", "another-model"),
        ]
        assert [request.model for request in model.requests] == ["mock-model"] * 3 + ["another-model"]


async def test_s23_settings_can_be_changed_between_turns():
    async with offline(approval_policy="on-request") as (codex, model, _):
        model.say("fine")
        thread = await codex.thread_start()
        async with codex.events("thread/settings/updated") as updates:
            await thread.update_settings(
                model="another-model", effort="low", sandbox=Sandbox.workspace_write, approval_mode="deny_all"
            )
            updated = (await updates.__anext__()).params.thread_settings
        assert (updated.model, updated.effort, updated.approval_policy) == ("another-model", "low", "never")
        assert isinstance(updated.sandbox_policy, wire.WorkspaceWriteSandboxPolicy)
        await thread.run("go")
        assert model.requests[0].model == "another-model"
        assert model.requests[0].body["reasoning"]["effort"] == "low"


# -- inputs --------------------------------------------------------------------------------------------------------


def png():
    """One red pixel."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 1, 1, 8, 2, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(b"\0\xff\0\0")),
            chunk(b"IEND", b""),
        ]
    )


def images_of(request):
    return [
        part["image_url"]
        for item in request.input
        if isinstance(item.get("content"), list)
        for part in item["content"]
        if part["type"] == "input_image"
    ]


async def test_s24_a_local_image_reaches_the_model_as_data():
    async with offline() as (codex, model, home):
        path = home.workspace / "red.png"
        path.write_bytes(png())
        model.say("red")
        thread = await codex.thread_start()
        await thread.run([TextInput("Which colour?"), LocalImageInput(path)])
        [url] = images_of(model.requests[0])
        assert url.startswith("data:image/png;base64,")
        assert "Which colour?" in model.requests[0].input_texts


async def test_s25_a_remote_image_is_refused_without_its_feature_but_a_data_url_is_not():
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()
        with pytest.raises(errors.InvalidRequestError):
            await thread.run([ImageInput("https://images.example/red.png")])
        assert model.requests == []
        model.say("red")
        url = "data:image/png;base64," + base64.b64encode(png()).decode()
        assert (await thread.run([ImageInput(url)])).final_response == "red"
        assert images_of(model.requests[0])[0].startswith("data:image/png;base64,")


async def test_s26_a_skill_reaches_the_model_with_its_name_path_and_body():
    async with offline() as (codex, model, home):
        path = home.codex_home / "skills" / "demo" / "SKILL.md"
        path.parent.mkdir(parents=True)
        path.write_text("---\nname: demo\ndescription: a skill for the test\n---\n\nAlways say please.\n")
        model.say("please")
        thread = await codex.thread_start()
        await thread.run([TextInput("Use the skill $demo."), SkillInput("demo", path)])
        [block] = [text for text in model.requests[0].input_texts if text.startswith("<skill>")]
        assert "<name>demo</name>" in block
        assert str(path) in block
        assert "Always say please." in block


async def test_s27_text_crosses_unchanged_and_survives_a_restart():
    text = "quotes \" ' and \\ and newlines\n\n\tä € 𝄞 👩‍👩‍👧 end"
    async with offline_parts() as (config, model, _):
        model.say(text)
        model.say("again")
        async with open_codex(config) as codex:
            thread = await codex.thread_start()
            assert (await thread.run(text)).final_response == text
        async with open_codex(config) as codex:
            resumed = await codex.thread_resume(thread.id)
            entries = [entry.item async for entry in resumed.items()]
            assert [
                item.content[0].text for item in entries if isinstance(item, wire.UserMessageThreadItem)
            ] == [text]
            assert [item.text for item in entries if isinstance(item, wire.AgentMessageThreadItem)] == [text]
            await resumed.run("new")
        texts = model.requests[1].input_texts
        assert [one for one in texts if one in (text, "new")] == [text, text, "new"]


# -- the life of a thread ------------------------------------------------------------------------------------------


async def test_s28_a_thread_name_can_be_set_and_read():
    async with offline() as (codex, model, _):
        model.say("one")
        thread = await codex.thread_start()
        await thread.run("persist")
        await thread.set_name("the name")
        assert (await thread.read()).name == "the name"


async def test_s29_archived_threads_are_listed_separately():
    async with offline() as (codex, model, _):
        kept, archived = await codex.thread_start(), await codex.thread_start()
        for thread in (kept, archived):
            model.say("one")
            await thread.run("persist")
        await codex.thread_archive(archived.id)
        assert [stored.id async for stored in codex.threads()] == [kept.id]
        assert [stored.id async for stored in codex.threads(archived=True)] == [archived.id]
        page = await codex.thread_list(archived=False, limit=1)
        assert [stored.id for stored in page.data] == [kept.id]


async def test_s29_listing_threads_fetches_all_pages():
    async with offline() as (codex, model, home):
        made = []
        for number in range(5):
            model.say("one")
            thread = await codex.thread_start()
            await thread.run(f"thread {number}")
            made.append(thread.id)
        assert [stored.id async for stored in codex.threads(page_size=2, sort_direction="asc")] == made
        assert [stored.id async for stored in codex.threads(page_size=2)] == made[::-1]
        assert {stored.id async for stored in codex.threads(cwd=home.workspace)} == set(made)
        assert [stored.id async for stored in codex.threads(cwd=home.home)] == []
        assert [stored.id async for stored in codex.threads(excluded_thread_ids=made[1:])] == made[:1]


async def test_s30_the_turns_of_a_thread_are_read_at_once_or_in_pages():
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()
        for number in ("one", "two", "three"):
            model.say(f"the answer to {number}")
            await thread.run(number)

        def texts(turns):
            items = [item for turn in turns for item in turn.items]
            return [
                item.content[0].text if isinstance(item, wire.UserMessageThreadItem) else item.text
                for item in items
            ]

        expected = ["one", "the answer to one", "two", "the answer to two", "three", "the answer to three"]
        assert texts((await thread.read(include_turns=True)).turns) == expected
        paged = [turn async for turn in thread.turns(page_size=2, items_view="full", sort_direction="asc")]
        assert texts(paged) == expected
        newest = [turn async for turn in codex.thread_turns(thread.id, page_size=1)]
        assert [turn.id for turn in newest] == [turn.id for turn in reversed(paged)]
        of_one = [entry async for entry in thread.items(turn_id=paged[1].id, page_size=1)]
        assert {entry.turn_id for entry in of_one} == {paged[1].id}
        assert [entry.item.id for entry in of_one] == [item.id for item in paged[1].items]


async def test_s31_s32_the_life_of_a_thread():
    async with offline_parts() as (config, model, _):
        for text in ("one", "two", "three"):
            model.say(text)
        async with open_codex(config) as codex:
            thread = await codex.thread_start()
            await thread.run("persist")
            await thread.set_name("a life")
            assert (await thread.read()).name == "a life"
        async with open_codex(config) as codex:
            thread = await codex.thread_resume(thread.id)
            fork = await thread.fork()
            assert fork.id != thread.id
            assert fork.info.forked_from_id == thread.id
            assert (await fork.run("in the fork")).final_response == "two"
            await thread.archive()
            with pytest.raises(errors.InvalidRequestError):
                await thread.run("archived")
            back = await codex.thread_unarchive(thread.id)
            assert back.id == thread.id
            assert (await codex.thread_read(back.id)).name == "a life"
            assert (await back.run("unarchived")).final_response == "three"
            await codex.thread_delete(fork.id)  # its history refers to the original thread
            await codex.thread_delete(back.id)
            with pytest.raises(errors.InvalidRequestError):
                await codex.thread_read(back.id)


async def test_s32_a_thread_that_is_not_archived_cannot_be_unarchived():
    async with offline() as (codex, model, _):
        model.say("one")
        thread = await codex.thread_start()
        await thread.run("persist")
        with pytest.raises(errors.InvalidRequestError):
            await codex.thread_unarchive(thread.id)


async def test_s32_turns_can_be_rolled_back_and_items_injected():
    async with offline() as (codex, model, _):
        thread = await codex.thread_start()
        turns = []
        for text in ("one", "two"):
            model.say(f"answer {text}")
            turns.append((await thread.run(text)).id)
        await thread.revert(turns[1])
        assert [turn.id async for turn in thread.turns()] == turns[:1]
        injected = {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "by the way"}],
        }
        await thread.inject_items([injected])
        model.say("answer three")
        await thread.run("three")
        texts = [
            text for text in model.requests[2].input_texts if text in ("one", "two", "by the way", "three")
        ]
        assert texts == ["one", "by the way", "three"]
        until_one = await codex.thread_fork(thread.id, last_turn_id=turns[0])
        assert [turn.id async for turn in until_one.turns()] == turns[:1]


async def test_s33_a_compaction_asks_the_model_once_and_is_a_turn_with_events():
    async with offline() as (codex, model, _):
        model.say("one")
        model.say("a summary")
        thread = await codex.thread_start()
        result = await thread.run("persist")
        async with thread.events() as events:
            await codex.api.thread.compact_start(thread_id=thread.id)
            seen = []
            while "turn/completed" not in seen:
                seen.append((await events.__anext__()).method)
        assert "turn/started" in seen
        assert len(model.requests) == 2
        # It reports usage three times; two reports repeat earlier counts.
        assert result.turn_usage.total_tokens == 15
        assert thread.usage.total_tokens == codex.usage.total_tokens == 30


# -- usage ---------------------------------------------------------------------------------------------------------


async def test_s33_usage_accumulates_across_a_resume_and_a_fork():
    async with offline_parts() as (config, model, _):
        for _ in range(3):
            model.say("fine")
        async with open_codex(config) as codex:
            thread = await codex.thread_start()
            assert (await thread.run("one")).turn_usage.total_tokens == 15
        async with open_codex(config) as codex:
            thread = await codex.thread_resume(thread.id)
            result = await thread.run("two")
            assert result.turn_usage.total_tokens == 15
            assert result.usage.total.total_tokens == 30
            fork = await thread.fork()
            result = await fork.run("three")
            assert result.turn_usage.total_tokens == 15
            assert result.usage.total.total_tokens == 45
            assert codex.usage.total_tokens == 30


# -- logins --------------------------------------------------------------------------------------------------------

WITH_AUTH = {"model_providers": {"mock": {"requires_openai_auth": True}}}


async def test_s34_an_api_key_logs_in_and_a_logout_removes_it():
    async with offline(server_config=WITH_AUTH) as (codex, _, _home):
        before = await codex.account()
        assert (before.account, before.requires_openai_auth) == (None, True)
        await codex.login_api_key("sk-made-up-for-a-test")
        assert isinstance((await codex.account()).account, wire.ApiKeyAccount)
        with pytest.raises(errors.InvalidRequestError):
            await codex.rate_limits()
        await codex.logout()
        assert (await codex.account()).account is None


async def test_s35_a_browser_login_can_be_cancelled_and_reports_its_end():
    async with offline() as (codex, _, _home), await codex.login_chatgpt() as login:
        assert login.login_id
        assert "redirect_uri=http%3A%2F%2F" in login.auth_url
        assert (await login.cancel()).status == "canceled"
        assert not (await login.wait()).success


async def test_s35_a_new_browser_login_replaces_the_pending_one_and_leaving_cancels_it():
    async with offline() as (codex, _, _home):
        first = await codex.login_chatgpt()
        async with await codex.login_chatgpt() as second:
            assert not (await first.wait()).success
        assert not (await second.wait()).success
        assert (await second.cancel()).status == "notFound"
        with trio.CancelScope() as scope:
            async with await codex.login_chatgpt() as third:
                scope.cancel()
                await third.wait()
        assert not (await third.wait()).success


async def test_s35_a_device_code_login_without_network_raises():
    async with offline() as (codex, _, _home):
        with pytest.raises(errors.RpcError):
            await codex.login_chatgpt_device_code()
