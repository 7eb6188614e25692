"""Logins as handles: their outcomes, every way they end, and their cancellation on the server."""

from contextlib import asynccontextmanager

import pytest
import trio

from trio_codex import CodexConfig, errors, wire
from trio_codex._session.logins import ENDED_BYTES, ENDED_KEPT
from trio_codex.testing import fake_codex

BROWSER = {"type": "chatgpt", "loginId": "login-1", "authUrl": "https://auth.example/secret"}
DEVICE = {
    "type": "chatgptDeviceCode",
    "loginId": "login-1",
    "verificationUrl": "https://auth.example/device",
    "userCode": "ABCD-EFGH",
}


@asynccontextmanager
async def scripted(**answers):
    with trio.fail_after(5):
        async with fake_codex() as (codex, server):
            server.give("account/login/start", answers.get("login", BROWSER))
            yield codex, server


async def complete(server, login_id="login-1", success=True, error=None):
    await server.notify("account/login/completed", {"loginId": login_id, "success": success, "error": error})


async def test_waiting_for_a_browser_login():
    async with scripted() as (codex, server):
        async with await codex.login_chatgpt() as login:
            assert (login.login_id, login.auth_url) == ("login-1", "https://auth.example/secret")
            assert (login.verification_url, login.user_code) == (None, None)
            await complete(server, "another login")
            await complete(server)
            completed = await login.wait()
            assert completed.success
            assert await login.wait() is completed
        assert server.unexpected() == [], "a finished login was cancelled"


async def test_showing_a_device_code_and_waiting_for_the_login():
    async with scripted(login=DEVICE) as (codex, server):
        login = await codex.login_chatgpt_device_code()
        assert (login.user_code, login.verification_url) == ("ABCD-EFGH", "https://auth.example/device")
        assert login.auth_url is None
        await complete(server, success=False, error="denied")
        completed = await login.wait()
        assert (completed.success, completed.error) == (False, "denied")


async def test_an_end_that_arrives_before_the_response_is_not_missed():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("account/login/start")
        ended = []

        async def body():
            login = await codex.login_chatgpt()
            ended.append(await login.wait())

        nursery.start_soon(body)
        asked = await server.expect("account/login/start")
        assert asked.params == {"type": "chatgpt"}
        await complete(server)
        await asked.answer(BROWSER)
        await trio.testing.wait_all_tasks_blocked()
        assert ended[0].success


@pytest.mark.parametrize("way", ["return", "cancelled", "error"])
async def test_a_login_whose_scope_exits_early_is_cancelled_on_the_server(way):
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        left = trio.Event()

        async def body():
            with trio.CancelScope() as scope:
                try:
                    async with await codex.login_chatgpt() as login:
                        if way == "error":
                            raise LookupError
                        if way == "cancelled":
                            scope.cancel()
                            await login.wait()
                except LookupError:
                    pass
            left.set()

        nursery.start_soon(body)
        asked = await server.expect("account/login/cancel")
        assert asked.params == {"loginId": "login-1"}
        await trio.testing.wait_all_tasks_blocked()
        assert not left.is_set()
        await asked.answer({"status": "canceled"})
        await left.wait()


async def test_cancelling_the_start_of_a_login_undoes_it():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.take_over("account/login/start")
        scope = trio.CancelScope()

        async def body():
            with scope:
                await codex.login_chatgpt_device_code()

        nursery.start_soon(body)
        asked = await server.expect("account/login/start")
        assert asked.params == {"type": "chatgptDeviceCode"}
        scope.cancel()
        await asked.answer(DEVICE)
        asked = await server.expect("account/login/cancel")
        assert asked.params == {"loginId": "login-1"}
        await asked.answer({"status": "canceled"})
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


@pytest.mark.parametrize(
    ("answer", "login_id"), [({**BROWSER, "authUrl": 5}, "login-1"), ({**BROWSER, "loginId": 5}, None)]
)
async def test_a_login_with_an_unreadable_response_is_cancelled_or_reported(answer, login_id, caplog):
    async with scripted(login=answer) as (codex, server):
        server.give("account/login/cancel", {"status": "canceled"})
        cancelled = []
        if login_id is not None:
            server.take_over("account/login/cancel")
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def login():
                with pytest.raises(errors.DecodeError):
                    await codex.login_chatgpt()

            if login_id is not None:
                asked = await server.expect("account/login/cancel")
                cancelled.append(asked.params["loginId"])
                await asked.answer({"status": "canceled"})
        assert cancelled == ([] if login_id is None else [login_id])
        reports = [record for record in caplog.records if "may still be pending" in record.message]
        assert len(reports) == (login_id is None)


async def test_a_login_entered_in_a_cancelled_scope_is_cancelled_on_the_server():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        scope = trio.CancelScope()

        async def body():
            with scope:
                login = await codex.login_chatgpt()
                scope.cancel()
                async with login:
                    await login.wait()

        nursery.start_soon(body)
        asked = await server.expect("account/login/cancel")
        assert asked.params == {"loginId": "login-1"}
        await asked.answer({"status": "canceled"})
        await trio.testing.wait_all_tasks_blocked()
        assert scope.cancelled_caught


async def test_starting_a_login_may_take_longer_than_the_request_timeout(autojump_clock):
    # It requests the device code from another host.
    with trio.fail_after(5000):
        async with fake_codex(CodexConfig(request_timeout=1)) as (codex, server):
            server.take_over("account/login/start")
            async with trio.open_nursery() as nursery:
                logins = []

                async def body():
                    logins.append(await codex.login_chatgpt_device_code())

                nursery.start_soon(body)
                asked = await server.expect("account/login/start")
                await trio.sleep(1000)
                assert logins == []
                await asked.answer(DEVICE)
            assert logins[0].user_code == "ABCD-EFGH"


async def test_a_login_can_be_cancelled_explicitly_and_ends_without_success():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.give("account/login/cancel", {"status": "canceled"})
        async with await codex.login_chatgpt() as login:
            assert (await login.cancel()).status is wire.CancelLoginAccountStatus.canceled
            nursery.start_soon(complete, server, "login-1", False, "Login was not completed")
            assert not (await login.wait()).success


async def test_losing_the_connection_ends_the_wait_for_a_login():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        seen = []

        async def body():
            try:
                async with await codex.login_chatgpt() as login:
                    await login.wait()
            except errors.ConnectionBroken as exc:
                seen.append(exc)

        nursery.start_soon(body)
        await trio.testing.wait_all_tasks_blocked()
        await server.hang_up()
        await trio.testing.wait_all_tasks_blocked()
        assert len(seen) == 1


async def test_an_answer_to_another_kind_of_login_is_an_error():
    async with scripted(login={"type": "apiKey"}) as (codex, _):
        with pytest.raises(errors.DecodeError):
            await codex.login_chatgpt()


async def test_the_repr_of_a_login_handle_does_not_reveal_the_login():
    async with scripted(login=DEVICE) as (codex, _):
        login = await codex.login_chatgpt_device_code()
        assert "ABCD" not in repr(login)
        assert "https" not in repr(login)


async def test_the_number_of_recorded_ends_is_bounded():
    async with scripted() as (codex, server):
        login = await codex.login_chatgpt()
        for number in range(ENDED_KEPT):
            await complete(server, f"other-{number}")
        await trio.testing.wait_all_tasks_blocked()
        assert len(login._news._ended) == ENDED_KEPT
        await complete(server)
        assert (await login.wait()).success
        assert len(login._news._ended) == ENDED_KEPT


async def test_the_size_of_recorded_ends_is_bounded():
    async with scripted() as (codex, server):
        login = await codex.login_chatgpt()
        for number in range(10):
            await complete(server, f"other-{number}", success=False, error="x" * (ENDED_BYTES // 2))
        await trio.testing.wait_all_tasks_blocked()
        assert list(login._news._ended) == ["other-9"]
        await complete(server, "small", success=True)
        await complete(server, "other-9", success=False, error="x" * ENDED_BYTES)
        await trio.testing.wait_all_tasks_blocked()
        assert list(login._news._ended) == ["other-9"]
        await complete(server, success=False, error="x" * 2 * ENDED_BYTES)
        assert not (await login.wait()).success


# -- account -------------------------------------------------------------------------------------------------------


async def test_the_account_and_its_limits_are_read():
    async with scripted() as (codex, server):
        server.give(
            "account/read",
            {
                "account": {"type": "chatgpt", "email": "me@example.org", "planType": "pro"},
                "requiresOpenaiAuth": True,
            },
        )
        server.give("account/rateLimits/read", {"rateLimits": {"primary": {"usedPercent": 12}}})
        server.give("account/usage/read", {"summary": {"lifetimeTokens": 5}})
        server.give("account/logout", {})
        account = await codex.account(refresh_token=True)
        assert isinstance(account.account, wire.ChatgptAccount)
        assert (await codex.rate_limits()).rate_limits.primary.used_percent == 12
        assert (await codex.account_usage()).summary.lifetime_tokens == 5
        await codex.logout()


# -- MCP servers ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("login_id", ["attempt-2", None], ids=["with an id", "of an older server"])
async def test_waiting_for_a_login_to_an_mcp_server(login_id):
    async with scripted() as (codex, server):
        ids = {} if login_id is None else {"loginId": login_id}
        server.give("mcpServer/oauth/login", {"authorizationUrl": "https://auth.example/mcp", **ids})
        login = await codex.mcp.login("docs", scopes=["read"])
        assert (login.name, login.authorization_url) == ("docs", "https://auth.example/mcp")
        await server.notify(
            "mcpServer/oauthLogin/completed", {"name": "other", "success": False, "loginId": "x"}
        )
        await server.notify("mcpServer/oauthLogin/completed", {"name": "docs", "success": True, **ids})
        assert (await login.wait()).success
        assert "https" not in repr(login)


async def test_an_earlier_login_to_an_mcp_server_is_not_mistaken_for_the_next():
    async with scripted() as (codex, server), trio.open_nursery() as nursery:
        server.give("mcpServer/oauth/login", {"authorizationUrl": "https://auth.example/mcp"})
        first = await codex.mcp.login("docs")
        await server.notify("mcpServer/oauthLogin/completed", {"name": "docs", "success": False})
        assert not (await first.wait()).success
        ended = []

        async def body():
            ended.append(await (await codex.mcp.login("docs")).wait())

        nursery.start_soon(body)
        await trio.testing.wait_all_tasks_blocked()
        assert ended == []
        await server.notify("mcpServer/oauthLogin/completed", {"name": "docs", "success": True})
        await trio.testing.wait_all_tasks_blocked()
        assert ended[0].success
