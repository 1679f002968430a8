"""A headless Chromium, driven over a pipe by the DevTools protocol: nothing but the browser itself is needed."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import suppress

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
OPTIONS = (
    "--headless", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-dev-shm-usage",
)  # fmt: skip
SECONDS = 30  # the longest wait for an answer


def executable():
    """The browser of this machine, or None."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def _pipe():
    """Both ends of a pipe, with numbers that a shell leaves alone."""
    ends = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 64) for end in ends]
    for end in ends:
        os.close(end)
    return high


class Browser:
    """One browser with one page; `events` holds what it reported since the last `open`."""

    def __init__(self, folder):
        """`folder` takes its profile."""
        read_commands, self.commands = _pipe()
        self.answers, write_answers = _pipe()
        shell = f'exec "$@" 3<&{read_commands} 4>&{write_answers}'  # where the browser looks for them
        command = [executable(), *OPTIONS, f"--user-data-dir={folder}", "about:blank"]
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command],
            pass_fds=(read_commands, write_answers),
            stderr=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )
        os.close(read_commands)
        os.close(write_answers)
        self.number, self.buffer, self.events, self.session = 0, b"", [], None
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def close(self):
        """End the browser and wait for it."""
        with suppress(BrokenPipeError, ConnectionError):
            self.session = None
            self.call("Browser.close")
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
        os.close(self.commands)
        os.close(self.answers)

    def call(self, method, **parameters):
        """Send a command and wait for its answer."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        answer = self._wait(lambda message: message.get("id") == self.number)
        assert "error" not in answer, f"{method}: {answer['error']['message']}"
        return answer["result"]

    def _wait(self, wanted):
        """The next message that is wanted; all others are events."""
        end = time.monotonic() + SECONDS
        while True:
            while b"\0" in self.buffer:
                text, _, self.buffer = self.buffer.partition(b"\0")
                message = json.loads(text)
                if "method" in message:
                    self.events.append((message["method"], message["params"]))
                if wanted(message):
                    return message
            ready = select.select([self.answers], [], [], max(0, end - time.monotonic()))[0]
            chunk = os.read(self.answers, 1 << 20) if ready else b""
            if not chunk:
                raise ConnectionError("the browser does not answer")
            self.buffer += chunk

    def open(self, path, width, scheme, height=900):
        """Load a file at a width in CSS pixels, in the colour scheme "light" or "dark"; below 500 pixels as a phone."""
        phone = width < 500
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if phone else 1,
            mobile=phone,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media="screen", features=features)
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        loaded = "Page.loadEventFired"
        if not any(method == loaded for method, _ in self.events):
            self._wait(lambda message: message.get("method") == loaded)

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key, code, text=""):
        """Press and release a key."""
        parameters = {"key": key, "code": key, "windowsVirtualKeyCode": code, "text": text}
        self.call("Input.dispatchKeyEvent", type="keyDown" if text else "rawKeyDown", **parameters)
        self.call("Input.dispatchKeyEvent", type="keyUp", **parameters)

    def click(self, selector):
        """Click in the middle of an element, scrolled into view."""
        place = """(e => {
            e.scrollIntoView({block: "center"});
            const r = e.getBoundingClientRect();
            return [r.x + r.width / 2, r.y + r.height / 2];
        })"""
        x, y = self.evaluate(f"{place}(document.querySelector({json.dumps(selector)}))")
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def screenshot(self, path, whole=False):
        """The window as PNG, or the whole page."""
        answer = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    def troubles(self):
        """What the console said, and every request but the page itself and what is inside it."""
        found = []
        for method, parameters in self.events:
            if method in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
                found.append((method, parameters))
            if method == "Network.requestWillBeSent" and parameters["type"] != "Document":
                url = parameters["request"]["url"]
                found += [] if url.startswith("data:") else [(method, url)]
        return found
