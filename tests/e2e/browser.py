"""A headless Chromium of one's own, driven over the DevTools protocol by what a person sees: roles and names."""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import tempfile
import threading
import time

from websockets.sync.client import connect

BINARIES = ("chromium", "chromium-browser", "google-chrome")
DEVTOOLS = re.compile(r"DevTools listening on (ws://\S+)")
START_S, REPLY_S = 60, 30
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, "Space": 32}


def binary():
    """Where a Chromium is; `None` where there is none."""
    return next(filter(None, map(shutil.which, BINARIES)), None)


def _sandboxed() -> bool:
    """Chromium's sandbox refuses root, and needs user namespaces, which containers may forbid."""
    return os.geteuid() != 0 and subprocess.run(["unshare", "--user", "true"], capture_output=True).returncode == 0


class Refused(AssertionError):
    """The browser did not carry a command out, such as one about an element of a page that has just been left."""


class Browser:
    """Ends with its `with` block, its process and its profile with it."""

    def __init__(self):
        self.profile = tempfile.mkdtemp(prefix="blyan-browser-")
        options = [
            "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={self.profile}", "--no-first-run",
            "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--hide-scrollbars",
            # Nothing but the node is reached, whatever a page asks for.
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
        ]
        # The only pages are those of a node that the test itself has started.
        options += [] if _sandboxed() else ["--no-sandbox"]
        self.process = subprocess.Popen([binary(), *options, "about:blank"], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.held = contextlib.ExitStack()
        self.said, self.address, self._found = [], None, threading.Event()
        threading.Thread(target=self._read, daemon=True).start()
        if not self._found.wait(START_S) or self.address is None:
            self.close()
            raise AssertionError("chromium did not start:\n" + "".join(self.said)[-3000:])
        self.socket = self.held.enter_context(connect(self.address, max_size=None, compression=None))
        self.last, self.events = 0, []

    def _read(self):
        for line in self.process.stderr:
            self.said.append(line)
            if found := DEVTOOLS.search(line):
                self.address = found[1]
                self._found.set()
        self._found.set()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        with contextlib.suppress(OSError):
            self.held.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.profile, ignore_errors=True)

    def call(self, method, session=None, **params):
        """The reply to one command; events that arrive before it are kept."""
        self.last += 1
        self.socket.send(json.dumps({"id": self.last, "method": method, "params": params, **({"sessionId": session} if session else {})}))
        deadline = time.monotonic() + REPLY_S
        while True:
            message = json.loads(self.socket.recv(timeout=max(0.01, deadline - time.monotonic())))
            if "id" not in message:
                self.events.append(message)
            elif message["id"] == self.last:
                if "error" in message:
                    raise Refused(f"{method} {params}: {message['error']}")
                return message["result"]

    def page(self, url, **view):
        return Page(self, url, **view)


class Page:
    """One tab."""

    def __init__(self, browser, url, width=1200, height=900, dark=False, phone=False):
        self.browser = browser
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Audits", "DOM", "Accessibility", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        # A tab in the background gets no frames, and one at a time is in the front.
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)
        self.call("Page.navigate", url=url)
        self.wait(lambda: self.script("location.href !== 'about:blank' && document.readyState === 'complete'"))

    def call(self, method, **params):
        return self.browser.call(method, session=self.session, **params)

    def script(self, expression):
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in done, done["exceptionDetails"]
        return done["result"].get("value")

    def text(self, selector="body"):
        """What is to be read there, in one line."""
        return " ".join((self.script(f"document.querySelector({json.dumps(selector)})?.innerText") or "").split())

    def wait(self, what, timeout=20.0):
        """Until `what()` is true; its value is returned."""
        deadline = time.monotonic() + timeout
        while True:
            # While a page gives way to the next, its elements are gone and those are not there yet.
            with contextlib.suppress(Refused):
                if value := what():
                    return value
            assert time.monotonic() < deadline, f"waited {timeout} s in vain: {self.text()[:3000]}\n{self.faults()}"
            time.sleep(0.02)

    def wait_text(self, text, selector="body", timeout=20.0):
        self.wait(lambda: text in self.text(selector), timeout)

    def find(self, role, name, within="html"):
        """Elements of this role and name as assistive technology has them, by their backend ids."""
        root = self.call("Runtime.evaluate", expression=f"document.querySelector({json.dumps(within)})")["result"]["objectId"]
        nodes = self.call("Accessibility.queryAXTree", objectId=root, role=role, accessibleName=name)["nodes"]
        return [node["backendDOMNodeId"] for node in nodes if not node.get("ignored")]

    def the(self, role, name, within="html"):
        """The one element of this role and name, once it is there."""
        found = self.wait(lambda: self.find(role, name, within))
        assert len(found) == 1, f"{len(found)} of role {role} are called {name!r}"
        return found[0]

    def click(self, role, name, within="html"):
        element = self.the(role, name, within)
        self.call("DOM.scrollIntoViewIfNeeded", backendNodeId=element)
        quad = self.call("DOM.getContentQuads", backendNodeId=element)["quads"][0]
        x, y = sum(quad[0::2]) / 4, sum(quad[1::2]) / 4
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def focus(self, role, name, within="html"):
        self.call("DOM.focus", backendNodeId=self.the(role, name, within))

    def type(self, text):
        """Into whatever has the focus."""
        self.call("Input.insertText", text=text)

    def press(self, key, shift=False):
        code = {"key": " " if key == "Space" else key, "code": key, "windowsVirtualKeyCode": KEYS[key], "modifiers": 8 if shift else 0}
        text = {"Enter": "\r", "Space": " "}.get(key)
        self.call("Input.dispatchKeyEvent", type="keyDown", **code, **({"text": text} if text else {}))
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def focused(self):
        """The name of what has the focus."""
        return self.script("document.activeElement.getAttribute('aria-label') ?? document.activeElement.labels?.[0]?.innerText ?? document.activeElement.innerText")

    def screenshot(self, path, whole=False):
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)["data"]
        pathlib.Path(path).write_bytes(base64.b64decode(data))

    def faults(self):
        """Console errors, uncaught exceptions, refused answers and breaches of the content security policy, as texts."""
        self.script("0")
        texts = []
        for event in self.browser.events:
            if event.get("sessionId") == self.session and (text := _fault(event["method"], event["params"])):
                texts.append(text)
        return texts


def _fault(method, params):
    if method == "Runtime.exceptionThrown":
        return "exception: " + json.dumps(params["exceptionDetails"])[:500]
    if method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
        return "console: " + json.dumps(params["args"])[:500]
    if method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
        entry = params["entry"]
        return f"{entry['source']}: {entry['text']} {entry.get('url', '')}"
    if method == "Audits.issueAdded":
        return "issue: " + json.dumps(params["issue"])[:500]
    return None
