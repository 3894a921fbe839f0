"""A headless Chromium driven over its debugging pipe with nothing but the standard library.

`Browser.open(url, width, height)` gives a Tab: `tab.run(expression)` evaluates JavaScript there, `tab.wait(expression)`
until it is true, `tab.errors` holds every console error, exception and refused load, `tab.requests` every address.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Tab", "find_chromium"]

FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]


def find_chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
    return os.environ.get("BUCLE_CHROMIUM") or next((path for name in names if (path := shutil.which(name))), None)


class Browser:
    """One Chromium with a profile of its own, gone when closed."""

    def __init__(self, binary: str) -> None:
        self._home = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_read, self._to = os.pipe()
        self._from, to_write = os.pipe()

        def three_and_four() -> None:  # Chromium reads commands from 3 and writes replies to 4
            spare_read, spare_write = os.dup(to_read), os.dup(to_write)
            os.dup2(spare_read, 3)
            os.dup2(spare_write, 4)

        self._process = subprocess.Popen(
            [binary, *FLAGS, f"--user-data-dir={self._home.name}", "about:blank"], preexec_fn=three_and_four,
            close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._rest = b""
        self._last = 0
        self.tabs: dict[str, Tab] = {}

    def call(self, method: str, params: dict[str, Any] | None = None, session: str = "", limit: float = 20) -> Any:
        """The result of one command; events that come meanwhile go to their tabs."""
        self._last += 1
        number = self._last
        message = {"id": number, "method": method, "params": params or {}}
        if session:
            message["sessionId"] = session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + limit
        while (left := end - time.monotonic()) > 0:
            answer = None
            for reply in self._read(left):
                if reply.get("id") == number:
                    answer = reply
                elif tab := self.tabs.get(reply.get("sessionId", "")):
                    tab.heard(reply)
            if answer is not None:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
        raise TimeoutError(f"{method} took more than {limit} s")

    def _read(self, limit: float) -> list[dict[str, Any]]:
        if not select.select([self._from], [], [], limit)[0]:
            return []
        data = os.read(self._from, 1 << 20)
        if not data:
            raise ConnectionError("the browser ended")
        *whole, self._rest = (self._rest + data).split(b"\0")
        return [json.loads(part) for part in whole]

    def open(self, url: str, width: int = 1280, height: int = 900, *, dark: bool = False,
             beside: Tab | None = None) -> Tab:
        """A tab with storage of its own, or with that of the tab `beside`."""
        context = beside.context if beside else self.call("Target.createBrowserContext")["browserContextId"]
        made = self.call("Target.createTarget", {"url": "about:blank", "browserContextId": context})
        target = made["targetId"]
        session = self.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"]
        tab = Tab(self, session, context)
        self.tabs[session] = tab
        for domain in ("Page", "Runtime", "Log", "Network"):
            tab.call(f"{domain}.enable")
        tab.call("Emulation.setDeviceMetricsOverride",
                 {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600})
        tab.call("Emulation.setEmulatedMedia",
                 {"features": [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        tab.call("Page.navigate", {"url": url})
        tab.wait("document.readyState === 'complete' && location.href !== 'about:blank'")
        return tab

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._to)
        os.close(self._from)
        self._home.cleanup()


class Tab:
    def __init__(self, browser: Browser, session: str, context: str) -> None:
        self._browser, self._session, self.context = browser, session, context
        self.errors: list[str] = []
        self.requests: list[str] = []

    def heard(self, event: dict[str, Any]) -> None:
        params = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
            case "Runtime.consoleAPICalled" if params["type"] in {"error", "warning", "assert"}:
                self.errors.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in {"error", "warning"}:
                self.errors.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
            case "Network.requestWillBeSent":
                self.requests.append(params["request"]["url"])

    def call(self, method: str, params: dict[str, Any] | None = None) -> Any:
        return self._browser.call(method, params, self._session)

    def run(self, expression: str) -> Any:
        found = self.call("Runtime.evaluate", {"expression": expression, "awaitPromise": True, "returnByValue": True})
        if "exceptionDetails" in found:
            raise RuntimeError(str(found["exceptionDetails"]))
        return found["result"].get("value")

    def wait(self, expression: str, limit: float = 10) -> None:
        end = time.monotonic() + limit
        while not self.run(f"!!({expression})"):
            if time.monotonic() > end:
                raise TimeoutError(f"never true: {expression}")
            time.sleep(0.05)

    def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            code = {"Tab": 9, "Enter": 13}[key]
            self.call("Input.dispatchKeyEvent",
                      {"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, **text})

    def type(self, text: str) -> None:
        self.call("Input.insertText", {"text": text})

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        image = self.call("Page.captureScreenshot", {"format": "png", "captureBeyondViewport": whole})
        path.write_bytes(base64.b64decode(image["data"]))
