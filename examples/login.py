"""Log in with ChatGPT in a browser, and show the account.

Run it with --device-code if the browser is on another machine. With --offline no user completes the login, so the
login's scope exits after a moment, which cancels the login on the server.
"""

import sys

import trio
from _offline import example_config

from trio_codex import Codex, open_codex, wire


async def print_account(codex: Codex) -> None:
    """Describe the account that is logged in."""
    match (await codex.account()).account:
        case wire.ChatgptAccount(email=email, plan_type=plan):
            print(f"logged in as {email} ({plan})")
        case wire.ApiKeyAccount():
            print("logged in with an API key")
        case _:
            print("not logged in")


async def main() -> None:
    """Run the example."""
    offline = "--offline" in sys.argv
    async with example_config("login") as config, open_codex(config) as codex:
        await print_account(codex)
        device_code = "--device-code" in sys.argv
        handle = await (codex.login_chatgpt_device_code() if device_code else codex.login_chatgpt())
        async with handle as login:
            if login.user_code is not None:
                print(f"enter {login.user_code} at {login.verification_url}")
            elif login.auth_url is not None:
                print(f"open {login.auth_url if not offline else login.auth_url.partition('?')[0]}")
            with trio.move_on_after(0.1 if offline else 600) as patience:
                completed = await login.wait()
                print("welcome" if completed.success else f"the login failed: {completed.error}")
        if patience.cancelled_caught:
            print(f"no user completed the login; it ended: {(await login.wait()).error}")
        await print_account(codex)


if __name__ == "__main__":
    trio.run(main)
