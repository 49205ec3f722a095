"""Opens pages in a headless Chromium over its debugging pipe, at a given width and colour scheme."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
import time

CHROMIUM = next((p for p in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if p), None)
LIMIT_S = 90.0


class Browser:
    """A Chromium with one page. `errors` collects the errors of the page's console and scripts, `requests` the URLs that it asks for."""

    def __init__(self):
        self.profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        to_child, self.write_end = os.pipe()
        self.read_end, from_child = os.pipe()
        words = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
                 "--disable-background-networking", f"--user-data-dir={self.profile.name}", "--remote-debugging-pipe", "about:blank"]
        # The debugging pipe is on the descriptors 3 and 4.
        shell = f'exec "$@" 3<&{to_child} 4>&{from_child}'
        self.process = subprocess.Popen(["bash", "-c", shell, "bash", *words], pass_fds=(to_child, from_child),
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_child)
        os.close(from_child)
        os.set_blocking(self.read_end, False)
        self.buffer, self.count, self.session = b"", 0, None
        self.errors, self.requests, self.loaded = [], [], False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(domain + ".enable")

    def close(self):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.write_end)
        os.close(self.read_end)
        self.profile.cleanup()

    def call(self, method, **parameters):
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_end, json.dumps(message).encode() + b"\0")
        return self.wait_for(lambda answer: answer.get("id") == message["id"], method)

    def wait_for(self, wanted, what):
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            raw, found, rest = self.buffer.partition(b"\0")
            if not found:
                try:
                    more = os.read(self.read_end, 1 << 20)
                    if not more:
                        raise AssertionError("Chromium ended")
                    self.buffer += more
                except BlockingIOError:
                    time.sleep(0.01)
                continue
            self.buffer = rest
            message = json.loads(raw)
            self.note(message)
            if wanted(message):
                if "error" in message:
                    raise AssertionError(f"{what}: {message['error']}")
                return message.get("result", {})
        raise AssertionError(f"Chromium did not answer {what} within {LIMIT_S} s")

    def note(self, message):
        method, parameters = message.get("method"), message.get("params", {})
        if method == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(parameters["exceptionDetails"])[:500])
        elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
            self.errors.append(json.dumps(parameters["args"])[:500])
        elif method == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
            self.errors.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Page.loadEventFired":
            self.loaded = True

    def open(self, path, width, scheme="light", height=800):
        """Opens a file at a window width in CSS pixels and a colour scheme."""
        self.errors, self.requests, self.loaded = [], [], False
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Page.navigate", url="file://" + os.path.abspath(path))
        if not self.loaded:
            self.wait_for(lambda message: message.get("method") == "Page.loadEventFired", "the load of the page")

    def value(self, expression):
        """The value of a JavaScript expression, or of the promise that it gives."""
        done = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in done:
            raise AssertionError(f"{expression}: {done['exceptionDetails']}")
        return done["result"].get("value")

    def press(self, key):
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, **({"text": key} if len(key) == 1 and kind == "keyDown" else {}))

    def mouse(self, kind, x, y, clicks=1):
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left" if kind != "mouseMoved" else "none", clickCount=clicks)

    def wheel(self, x, y, down, control=False):
        self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=down, modifiers=2 if control else 0)

    def picture(self, out, whole=True):
        """Writes a PNG of the page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=whole, **(
            {"clip": {"x": 0, "y": 0, "scale": 1, "width": self.value("document.documentElement.clientWidth"),
                      "height": self.value("document.documentElement.scrollHeight")}} if whole else {}))
        with open(out, "wb") as file:
            file.write(base64.b64decode(data["data"]))
