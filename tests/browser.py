"""A page in headless Chromium, driven by the DevTools protocol over a pipe."""

import base64
import itertools
import json
import os
import shutil
import signal
import subprocess
from contextlib import asynccontextmanager, suppress

import trio

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """An open page."""

    def __init__(self, reader, writer):
        self._reader, self._writer = reader, writer
        self._numbers = itertools.count(1)
        self._buffer = bytearray()
        self._session = {}
        self.events = []

    async def attach(self):
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network", "Log"):
            await self.call(f"{domain}.enable")

    async def call(self, method, **params):
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params, **self._session}
        await self._writer.send_all(json.dumps(message).encode() + b"\0")
        while True:
            answer = await self._receive()
            if answer.get("id") == number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    async def _receive(self):
        while b"\0" not in self._buffer:
            data = await self._reader.receive_some()
            assert data, "Chromium has exited"
            self._buffer += data
        line, _, rest = bytes(self._buffer).partition(b"\0")
        self._buffer[:] = rest
        return json.loads(line)

    async def close(self):
        self._session = {}
        await self.call("Browser.close")

    async def open(self, path, *, width=1440, scheme="light"):
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 700,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        await self.call("Emulation.setEmulatedMedia", features=features)
        await self.call("Page.navigate", url=path.as_uri())
        while await self.do("document.readyState") != "complete":  # noqa: ASYNC110  # it can only be polled
            await trio.sleep(0.02)

    async def do(self, script):
        """Evaluate JavaScript, and return its value."""
        answer = await self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def press(self, key, *, shift=False):
        text = {"Enter": "\r", "Space": " "}.get(key, key if len(key) == 1 else "")
        name = {"Space": " "}.get(key, key)
        codes = {"Tab": 9, "Enter": 13, "Space": 32}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=name, code=key, text=text if kind == "keyDown" else "",
                windowsVirtualKeyCode=codes.get(key, ord(key.upper()) if len(key) == 1 else 0), modifiers=8 if shift else 0,
            )  # fmt: skip

    async def type(self, text):
        await self.call("Input.insertText", text=text)

    def complaints(self):
        """Return everything that the page has written to the console, and its exceptions."""
        kinds = {
            "Runtime.exceptionThrown",
            "Runtime.consoleAPICalled",
            "Log.entryAdded",
            "Page.javascriptDialogOpening",
        }
        return [event for event in self.events if event.get("method") in kinds]

    def requests(self):
        """Return the URLs that the page has requested."""
        sent = [event for event in self.events if event.get("method") == "Network.requestWillBeSent"]
        return [event["params"]["request"]["url"] for event in sent]

    async def screenshot(self, path, *, whole=True):
        answer = await self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))


@asynccontextmanager
async def open_page(profile):
    """Start Chromium with a new profile, and open a page."""
    read_commands, write_commands = os.pipe()
    read_answers, write_answers = os.pipe()
    # Chromium reads from descriptor 3 and writes to 4.
    command = [
        "bash", "-c", f'exec "$@" 3<&{read_commands} 4>&{write_answers}', "sh", CHROMIUM, "--headless", "--no-sandbox",
        "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-pipe", f"--user-data-dir={profile}",
        "--disable-background-networking", "--disable-component-update", "--no-first-run", "--hide-scrollbars",
    ]  # fmt: skip
    process = subprocess.Popen(  # noqa: ASYNC220  # Trio's own function starts a thread
        command,
        pass_fds=(read_commands, write_answers),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    os.close(read_commands)
    os.close(write_answers)
    try:
        async with (
            trio.lowlevel.FdStream(read_answers) as reader,
            trio.lowlevel.FdStream(write_commands) as writer,
        ):
            page = Page(reader, writer)
            with trio.fail_after(60):
                await page.attach()
            yield page
            await page.close()
            with trio.move_on_after(10):
                while process.poll() is None:  # noqa: ASYNC110  # waiting would start a thread
                    await trio.sleep(0.02)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()  # noqa: ASYNC222  # it was killed
