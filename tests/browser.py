"""A headless browser, for tests of pages: Chromium, spoken to over a pipe in its own protocol.

In: a page's address, a size of the window. Out: what it looks like, how wide it is, what its scripts said. Always: the
browser has a profile of its own, and ends with the test.
"""

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars"),
    "--remote-debugging-pipe",
)


def find_browser() -> str | None:
    """The program, if this machine has one."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@dataclass
class Page:
    """One tab."""

    pipe: "Pipe"
    session: str
    errors: list[str] = field(default_factory=list)
    """what its scripts threw, and what it could not load"""
    asked: list[str] = field(default_factory=list)
    """addresses that it wanted, without those that are their own content"""

    def open(self, url: str, width: int, height: int) -> None:
        """Shows ``url`` in a window of that size, and waits until it is there."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        self.call("Page.navigate", url=url)
        self.wait("Page.loadEventFired")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Asks the tab for something."""
        number = self.pipe.send(method, parameters, self.session)
        while True:
            message = self.pipe.receive()
            self._note(message)
            if message.get("id") == number:
                assert "error" not in message, f"{method}: {message['error']}"
                return dict(message["result"])

    def wait(self, event: str) -> None:
        """Until ``event`` has happened."""
        while True:
            message = self.pipe.receive()
            self._note(message)
            if message.get("method") == event:
                return

    def value(self, expression: str) -> Any:
        """Of a piece of JavaScript; a promise is waited for."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """The whole page, as a PNG."""
        content = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(content))

    def _note(self, message: dict[str, Any]) -> None:
        parameters = message.get("params", {})
        if message.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"]))
        elif message.get("method") == "Log.entryAdded" and parameters["entry"]["level"] == "error":
            self.errors.append(parameters["entry"]["text"])
        elif message.get("method") == "Network.requestWillBeSent":
            url = parameters["request"]["url"]
            self.asked += [url] if not url.startswith("data:") else []


class Pipe:
    """Messages to and from the browser, each ended by a zero byte."""

    def __init__(self, reading: int, writing: int) -> None:
        self._from, self._to = os.fdopen(reading, "rb", 0), os.fdopen(writing, "wb", 0)
        self._rest = b""
        self._number = 0

    def send(self, method: str, parameters: dict[str, Any], session: str | None = None) -> int:
        """Returns the number that the answer will have."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        self._to.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        return self._number

    def receive(self) -> dict[str, Any]:
        """The next message."""
        while b"\0" not in self._rest:
            more = self._from.read(1 << 16)
            assert more, "the browser has gone"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(message))

    def close(self) -> None:
        """The browser ends when it finds this."""
        self._from.close()
        self._to.close()


@contextmanager
def browsing(program: str, profile: Path) -> Iterator[Page]:
    """A tab of a fresh browser."""
    (their_input, our_output), (our_input, their_output) = os.pipe(), os.pipe()
    redirected = f'exec "$@" 3<&{their_input} 4>&{their_output}'  # the numbers that it wants
    command = ["bash", "-c", redirected, "bash", program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
    process = subprocess.Popen(
        command, pass_fds=(their_input, their_output), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(their_input)
    os.close(their_output)
    pipe = Pipe(our_input, our_output)
    try:
        yield _new_tab(pipe)
    finally:
        pipe.close()
        process.kill()
        process.wait()


def _new_tab(pipe: Pipe) -> Page:
    browser = Page(pipe, "")
    target = browser.call("Target.createTarget", url="about:blank")["targetId"]
    page = Page(pipe, browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"])
    for domain in ("Page", "Runtime", "Log", "Network"):
        page.call(f"{domain}.enable")
    return page
