"""Chromium, driven by its DevTools protocol over a pipe: keys are pressed as a person presses them, pages are read from the
DOM and from what screen readers are told, so that it works with scripts turned off, too."""
import base64, json, os, select, subprocess, time

DEADLINE = 60  # no step takes longer on the busiest machine
KEYS = {"Tab": 9, "Enter": 13, "ArrowDown": 40}


class Browser:
    def __init__(self, profile, *flags):
        ours_in, theirs_out = os.pipe()
        theirs_in, ours_out = os.pipe()

        def put_in_place():  # Chromium reads descriptor 3 and writes 4
            for taken, place in ((os.dup(theirs_in), 3), (os.dup(theirs_out), 4)):
                os.dup2(taken, place)

        self.process = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
             "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
             "--remote-debugging-pipe", f"--user-data-dir={profile}", *flags, "about:blank"],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, close_fds=False,
            preexec_fn=put_in_place)
        os.close(theirs_in), os.close(theirs_out)
        self.inward, self.outward, self.waiting, self.number, self.session = ours_in, ours_out, b"", 0, None
        self.events = []
        target = next(it for it in self.ask("Target.getTargets")["targetInfos"] if it["type"] == "page")["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "DOM", "Network", "Log", "Accessibility"):
            self.ask(f"{domain}.enable")
        self.ask("Emulation.setFocusEmulationEnabled", enabled=True)

    def ask(self, method, **params):
        """Sends a command and returns its result; events that come meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.outward, json.dumps(message).encode() + b"\0")
        while True:
            answer = self.hear()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self.events.append(answer)

    def hear(self):
        end = time.monotonic() + DEADLINE
        while b"\0" not in self.waiting:
            if not select.select([self.inward], [], [], max(0, end - time.monotonic()))[0]:
                raise RuntimeError("Chromium says nothing")
            more = os.read(self.inward, 1 << 20)
            if not more:
                raise RuntimeError("Chromium has ended")
            self.waiting += more
        message, self.waiting = self.waiting.split(b"\0", 1)
        return json.loads(message)

    def loading(self, action):
        """Does something that loads a page, and waits until it is there."""
        self.events = [event for event in self.events if event.get("method") != "Page.loadEventFired"]
        action()
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self.hear())
        return self.html()

    def go(self, url):
        return self.loading(lambda: self.ask("Page.navigate", url=url))

    def html(self):
        return self.ask("DOM.getOuterHTML", nodeId=self.ask("DOM.getDocument")["root"]["nodeId"])["outerHTML"]

    def url(self):
        history = self.ask("Page.getNavigationHistory")
        return history["entries"][history["currentIndex"]]["url"]

    def write(self, text):
        self.ask("Input.insertText", text=text)

    def press(self, key):
        named = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        text = {"text": "\r"} if key == "Enter" else {}
        self.ask("Input.dispatchKeyEvent", type="keyDown", **named, **text)
        self.ask("Input.dispatchKeyEvent", type="keyUp", **named)

    def heard(self):
        """What a screen reader is told of: role, name, and what is said of it."""
        told = []
        for node in self.ask("Accessibility.getFullAXTree")["nodes"]:
            if not node.get("ignored"):
                properties = {it["name"]: it["value"].get("value") for it in node.get("properties", [])}
                told.append((node["role"]["value"], node.get("name", {}).get("value", ""), properties))
        return told

    def cookies(self):
        return {cookie["name"]: cookie for cookie in self.ask("Network.getCookies")["cookies"]}

    def window(self, width, height, scheme="light"):
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=2, mobile=width < 500)
        self.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def width(self):
        return self.ask("Page.getLayoutMetrics")["cssContentSize"]["width"]

    def screenshot(self, path):
        with open(path, "wb") as file:
            file.write(base64.b64decode(self.ask("Page.captureScreenshot", format="png")["data"]))

    def complaints(self):
        """What the console says, but for statuses that are no 200."""
        entries = [event["params"]["entry"] for event in self.events if event.get("method") == "Log.entryAdded"]
        return [entry["text"] for entry in entries if entry["source"] != "network"]

    def close(self):
        os.close(self.outward)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        os.close(self.inward)
