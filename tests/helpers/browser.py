"""A headless Chromium, driven over the pipe of its DevTools protocol: no driver, no library, no port, no network."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import signal
import time
from contextlib import contextmanager
from fcntl import F_DUPFD, fcntl
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-extensions",
    "--no-proxy-server",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
PATIENCE = 60.0  # seconds for one answer, on a busy machine
KEYS = {
    "Tab": 9,
    "Enter": 13,
    "Escape": 27,
    "ArrowRight": 39,
    "ArrowDown": 40,
    "Delete": 46,
}  # with their codes on Windows

OUTSIDE = """[...document.querySelectorAll('main *')].filter((e) => {
  const box = e.getBoundingClientRect();
  return box.width && box.right > innerWidth + 1 && !e.closest('.scroll') && !e.closest('pre') && !e.closest('svg');
}).map((e) => e.outerHTML.slice(0, 80))"""
READABLE = """(() => {
  const canvas = document.createElement('canvas').getContext('2d', {willReadFrequently: true});
  const rgba = (colour) => { canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const over = (top, ground) => [0, 1, 2].map((k) => top[k] * top[3] + ground[k] * (1 - top[3]));
  const light = (c) => [0.2126, 0.7152, 0.0722].reduce((sum, w, k) => {
    const v = c[k] / 255; return sum + w * (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4); }, 0);
  const ground = (e) => { const top = rgba(getComputedStyle(e).backgroundColor);
    return e.parentElement ? over(top, ground(e.parentElement)) : over(top, [255, 255, 255]); };
  const found = new Map();
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.offsetParent || e.closest('svg')) continue;
    const under = ground(e), ink = over(rgba(getComputedStyle(e).color), under);
    const [a, b] = [light(under), light(ink)].sort((x, y) => y - x), key = e.tagName + '.' + e.className;
    found.set(key, Math.min(found.get(key) ?? 99, (a + 0.05) / (b + 0.05)));
  }
  return [...found];
})()"""


def find() -> str | None:
    """The browser's program, or None."""
    return os.environ.get("CHROMIUM") or next((path for name in NAMES if (path := shutil.which(name))), None)


class Tab:
    """One page: ``requests`` and ``errors`` hold what it asked for and what went wrong since it was opened."""

    def __init__(self, pipe: Pipe, session: str) -> None:
        self._pipe, self._session = pipe, session
        self.requests: list[str] = []
        self.errors: list[str] = []
        self._dragged: Any = None
        pipe.listen(session, self._note)
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method: str, **params: Any) -> dict[str, Any]:
        return self._pipe.call(method, params, self._session)

    def _note(self, method: str, params: dict[str, Any]) -> None:
        if method == "Network.requestWillBeSent":
            self.requests.append(params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            self.errors.append(str(params["exceptionDetails"].get("exception", params["exceptionDetails"])))
        elif method == "Log.entryAdded" and params["entry"]["level"] in ("error", "warning"):
            self.errors.append(params["entry"]["text"])
        elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
            self.errors.append(str(params["args"]))
        elif method == "Input.dragIntercepted":
            self._dragged = params["data"]

    def open(self, page: Path | str) -> None:
        """Load a file or an address and wait until it has run."""
        self("Page.navigate", url=page if isinstance(page, str) else page.resolve().as_uri())
        self.wait("document.readyState === 'complete'")

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise AssertionError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def wait(self, script: str) -> None:
        """Until an expression is true."""
        end = time.monotonic() + PATIENCE
        while not self.run(script):
            if time.monotonic() > end:
                raise AssertionError(f"never became true: {script}")
            time.sleep(0.02)

    def look(self, width: int, theme: str = "light", height: int = 900, scripts: bool = True) -> None:
        """Show the page on a screen of this width, in this theme."""
        self("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self("Emulation.setEmulatedMedia", media="", features=[{"name": "prefers-color-scheme", "value": theme}])
        self("Emulation.setScriptExecutionDisabled", value=not scripts)

    def click(self, selector: str, k: int = 0) -> None:
        """A real click of the mouse into the middle of the k-th element of ``selector``."""
        x, y = self._middle(selector, k)
        for kind in ("mousePressed", "mouseReleased"):
            self("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def _middle(self, selector: str, k: int = 0) -> list[float]:
        """Where the middle of the k-th element of ``selector`` is, once it was scrolled to."""
        return self.run(
            f"(() => {{ const e = document.querySelectorAll({json.dumps(selector)})[{k}]; e.scrollIntoView({{block: 'center'}});"
            " const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )

    def drag(self, selector: str, onto: str) -> None:
        """Drag the first element of ``selector`` onto that of ``onto`` with the mouse; both must be in sight at once."""
        self("Input.setInterceptDrags", enabled=True)
        self._middle(onto)
        x, y = self._middle(selector)
        self("Input.dispatchMouseEvent", type="mousePressed", x=x, y=y, button="left", clickCount=1)
        self._dragged = None
        for step in (5, 10):
            self("Input.dispatchMouseEvent", type="mouseMoved", x=x + step, y=y + step, button="left", buttons=1)
        end = time.monotonic() + PATIENCE
        while self._dragged is None:
            assert time.monotonic() < end, "nothing was dragged"
            self.run("0")
        box = f"document.querySelector({json.dumps(onto)}).getBoundingClientRect()"
        x, y = self.run(f"[{box}.x + {box}.width / 2, {box}.y + {box}.height / 2]")
        for kind in ("dragEnter", "dragOver", "drop"):
            self("Input.dispatchDragEvent", type=kind, x=x, y=y, data=self._dragged)
        self("Input.dispatchMouseEvent", type="mouseReleased", x=x, y=y, button="left", clickCount=1)
        self("Input.setInterceptDrags", enabled=False)

    def choose_file(self, selector: str, path: Path) -> None:
        """Put a file into a field for files."""
        root = self("DOM.getDocument")["root"]["nodeId"]
        field = self("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self("DOM.setFileInputFiles", nodeId=field, files=[str(path)])

    def press(self, key: str, times: int = 1) -> None:
        """Press a key of ``KEYS``."""
        what = {"key": key, "code": key, "windowsVirtualKeyCode": KEYS[key]}
        for _ in range(times):
            self("Input.dispatchKeyEvent", type="keyDown", **what, **({"text": "\r"} if key == "Enter" else {}))
            self("Input.dispatchKeyEvent", type="keyUp", **what)

    def type(self, text: str) -> None:
        """Into whatever has the focus."""
        self("Input.insertText", text=text)

    def nameless(self) -> list[str]:
        """What can be operated, but has no name that a screen reader could say."""
        roles = {"button", "link", "textbox", "searchbox", "combobox", "spinbutton", "DisclosureTriangle"}
        nodes = [node for node in self("Accessibility.getFullAXTree")["nodes"] if not node.get("ignored")]
        return [node["role"]["value"] for node in nodes if node["role"]["value"] in roles and not node["name"]["value"]]

    def screenshot(self, path: Path, *, whole: bool = True) -> None:
        """Save the page, or what is seen of it, as PNG."""
        shot = self(
            "Page.captureScreenshot",
            captureBeyondViewport=whole,
            format="png",
            **({"clip": self._all()} if whole else {}),
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def _all(self) -> dict[str, float]:
        size = self("Page.getLayoutMetrics")["cssContentSize"]
        return {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}


class Pipe:
    """JSON messages, each ended by a zero byte, to and from the browser."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write = read, write
        self._rest, self._number = b"", 0
        self._listeners: dict[str, Any] = {}

    def listen(self, session: str, hear: Any) -> None:
        self._listeners[session] = hear

    def call(self, method: str, params: dict[str, Any], session: str | None = None) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            got = self._next()
            if got.get("id") == self._number:
                if "error" in got:
                    raise AssertionError(f"{method}: {got['error']['message']}")
                return got["result"]
            if "method" in got and (hear := self._listeners.get(got.get("sessionId"))):
                hear(got["method"], got["params"])

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            if not select.select([self._read], [], [], PATIENCE)[0]:
                raise AssertionError("the browser does not answer")
            got = os.read(self._read, 1 << 20)
            if not got:
                raise AssertionError("the browser is gone")
            self._rest += got
        line, _, self._rest = self._rest.partition(b"\0")
        return json.loads(line)


@contextmanager
def browser(program: str, profile: Path) -> Iterator[Pipe]:
    """A browser with an empty profile of its own; it ends with the block."""
    (their_read, our_write), (our_read, their_write) = os.pipe(), os.pipe()
    high = [fcntl(fd, F_DUPFD, 10) for fd in (their_read, their_write)]  # not 3 or 4, which are written over
    pid = os.posix_spawn(
        program,
        [program, *QUIET, f"--user-data-dir={profile}", "about:blank"],
        os.environ | {"HOME": str(profile)},
        file_actions=[
            (os.POSIX_SPAWN_DUP2, high[0], 3),
            (os.POSIX_SPAWN_DUP2, high[1], 4),
            (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0),
        ],
        setpgroup=0,
    )
    for fd in (their_read, their_write, *high):
        os.close(fd)
    try:
        yield Pipe(our_read, our_write)
    finally:
        os.close(our_write)
        os.close(our_read)
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def tab(pipe: Pipe) -> Tab:
    """A new page of the browser."""
    target = pipe.call("Target.createTarget", {"url": "about:blank"})["targetId"]
    return Tab(pipe, pipe.call("Target.attachToTarget", {"targetId": target, "flatten": True})["sessionId"])
