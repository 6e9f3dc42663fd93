"""A headless Chromium, driven through its DevTools pipe with the standard library alone."""

from __future__ import annotations

import base64
import functools
import json
import os
import select
import shutil
import subprocess
import threading
import time
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)

TIMEOUT = 120.0
"""Seconds that anything may take: other tests may have the processors."""


def find_chromium() -> str | None:
    """The browser's path, None where there is none."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Page:
    """The one page of a Chromium; a context manager that ends it.

    Attributes:
        requests: addresses that were asked for, in order.
        problems: what the browser complained about: uncaught errors, and the console's.
    """

    def __init__(self, chromium: str, profile: Path) -> None:
        self.requests: list[str] = []
        self.problems: list[str] = []
        self._answers: dict[int, dict[str, Any]] = {}
        self._rest = b""
        self._last = 0
        # Chromium reads commands on descriptor 3 and writes on 4.
        read, self._write = os.pipe()
        self._read, write = os.pipe()
        command = [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        shell = f'exec "$@" 3<&{read} 4>&{write} 2>/dev/null'
        self._process = subprocess.Popen(
            ["/bin/bash", "-c", shell, "chromium", *command], pass_fds=(read, write), start_new_session=True
        )
        os.close(read)
        os.close(write)
        self._session: str | None = None
        targets = self._call("Target.getTargets")["targetInfos"]
        target = next(entry["targetId"] for entry in targets if entry["type"] == "page")
        self._session = self._call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log", "DOM"):
            self._call(f"{domain}.enable")
        # Workers ask for files too: each waits until it is listened to.
        self._call("Target.setAutoAttach", autoAttach=True, waitForDebuggerOnStart=True, flatten=True)

    def open(self, address: str) -> None:
        """Go to an address and wait until its page has loaded."""
        self._call("Page.navigate", url=address)
        self.wait(f"location.href === {json.dumps(address)} && document.readyState === 'complete'")

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, waited for where it is a promise."""
        done = self._call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def wait(self, expression: str) -> None:
        """Wait until a JavaScript expression is true."""
        end = time.monotonic() + TIMEOUT
        while not self.run(f"Boolean({expression})"):
            assert time.monotonic() < end, f"{expression} never came true; {self.problems}"
            time.sleep(0.05)

    def choose(self, selector: str, *files: Path) -> None:
        """Put files into a file input."""
        root = self._call("DOM.getDocument")["root"]["nodeId"]
        node = self._call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self._call("DOM.setFileInputFiles", nodeId=node, files=[str(file) for file in files])

    def drop(self, x: int, y: int, *files: Path) -> None:
        """Drag files onto a point of the page."""
        data = {"items": [], "files": [str(file) for file in files], "dragOperationsMask": 1}
        for kind in ("dragEnter", "dragOver", "drop"):
            self._call("Input.dispatchDragEvent", type=kind, x=x, y=y, data=data)

    def press(self, key: str, code: int) -> None:
        """Press and release a key."""
        for kind in ("keyDown", "keyUp"):
            text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
            self._call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)

    def size(self, width: int, height: int, density: float = 1.0) -> None:
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=density,
            mobile=density > 1,
        )

    def scheme(self, name: str) -> None:
        """Prefer ``light`` or ``dark``."""
        self._call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def downloads(self, folder: Path) -> None:
        """Where downloads go."""
        self._call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(folder))

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self._call("Page.captureScreenshot")["data"]))

    def _call(self, method: str, **parameters: Any) -> Any:
        number = self._send(method, parameters, self._session)
        end = time.monotonic() + TIMEOUT
        while number not in self._answers:
            self._hear(end, method)
        answer = self._answers.pop(number)
        assert "error" not in answer, (method, answer["error"])
        return answer["result"]

    def _send(self, method: str, parameters: dict[str, Any], session: str | None) -> int:
        self._last += 1
        message = {"id": self._last, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        return self._last

    def _hear(self, end: float, what: str) -> None:
        ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"Chromium does not answer {what}"
        content = os.read(self._read, 1 << 20)
        assert content, "Chromium ended"
        *messages, self._rest = (self._rest + content).split(b"\0")
        for message in map(json.loads, messages):
            if "id" in message:
                self._answers[message["id"]] = message
            else:
                self._note(message)

    def _note(self, message: dict[str, Any]) -> None:
        method, about = message["method"], message["params"]
        if method == "Target.attachedToTarget" and self._session is not None:
            for order in ("Network.enable", "Runtime.enable", "Runtime.runIfWaitingForDebugger"):
                self._send(order, {}, about["sessionId"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(about["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.problems.append(str(about["exceptionDetails"]))
        elif method == "Log.entryAdded" and about["entry"]["level"] == "error":
            self.problems.append(about["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and about["type"] in {"error", "warning"}:
            self.problems.append(str(about["args"]))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, 9)
        self._process.wait()
        os.close(self._write)
        os.close(self._read)


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        pass


class Server:
    """What ``python -m http.server`` does in a folder, on a free port."""

    def __init__(self, folder: Path) -> None:
        handler = functools.partial(Quiet, directory=str(folder))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def texts(page: Page, selectors: Sequence[str]) -> list[str]:
    """Text of the first element of each selector."""
    return [page.run(f"document.querySelector({json.dumps(selector)}).textContent") for selector in selectors]
