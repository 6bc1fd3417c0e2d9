"""Opens a page in Chromium and tells what it shows, as JSON lines: {"shown": …} whenever the page has changed, {"asked": URL} for
each request that it makes, {"error": …} for what it says on its console. Nothing but the standard library: it speaks the DevTools
protocol over a pipe. Usage: browser.py URL
"""

import json
import os
import signal
import subprocess
import sys
import tempfile

# Runs before the page's own script, and tells when what is shown has changed.
WATCH = """
addEventListener("DOMContentLoaded", () => {
  const text = (id) => document.getElementById(id)?.innerText ?? null;
  const tell = () => told(JSON.stringify({
    language: document.documentElement.lang, status: text("status"), page: document.body.innerText,
    failed: document.getElementById("failed")?.hidden === false, loaded: performance.timeOrigin,
  }));
  new MutationObserver(tell).observe(document.body, { subtree: true, childList: true, characterData: true, attributes: true });
  tell();
});
"""


def main(url):
    # Asked to end, it ends its browser too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    to_browser, ours = os.pipe(), os.pipe()

    def wire():
        # The protocol's pipe: the browser reads from 3 and writes to 4.
        read, write = os.dup(to_browser[0]), os.dup(ours[1])
        os.dup2(read, 3)
        os.dup2(write, 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        browser = subprocess.Popen(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--no-first-run", "--remote-debugging-pipe",
             f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=wire, close_fds=False, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser[0])
        os.close(ours[1])
        try:
            talk(url, os.fdopen(to_browser[1], "wb", buffering=0), os.fdopen(ours[0], "rb"))
        finally:
            browser.kill()
            browser.wait()


def talk(url, write, read):
    numbers = iter(range(1, 1_000_000))

    def send(method, session=None, **params):
        number = next(numbers)
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        write.write(json.dumps(message).encode() + b"\0")
        return number

    def messages():
        rest = b""
        while True:
            part = read.read1(65536)
            if not part:
                return
            *whole, rest = (rest + part).split(b"\0")
            yield from map(json.loads, whole)

    tell = lambda **line: print(json.dumps(line), flush=True)
    created = send("Target.createTarget", url="about:blank")
    attached = watched = session = None
    for message in messages():
        method, params = message.get("method"), message.get("params", {})
        if "error" in message:
            raise SystemExit(f"the browser says: {message['error']}")
        if message.get("id") == created:
            attached = send("Target.attachToTarget", targetId=message["result"]["targetId"], flatten=True)
        elif message.get("id") is not None and message.get("id") == attached:
            session = message["result"]["sessionId"]
            for domain in ("Page", "Network", "Runtime", "Log"):
                send(f"{domain}.enable", session)
            send("Runtime.addBinding", session, name="told")
            watched = send("Page.addScriptToEvaluateOnNewDocument", session, source=WATCH)
        elif message.get("id") is not None and message.get("id") == watched:
            # Only now: the renderer would else load the page without the script.
            send("Page.navigate", session, url=url)
        elif method == "Runtime.bindingCalled":
            tell(shown=json.loads(params["payload"]))
        elif method == "Network.requestWillBeSent":
            tell(asked=params["request"]["url"])
        elif method == "Runtime.exceptionThrown":
            tell(error=params["exceptionDetails"].get("text", ""))
        elif method == "Log.entryAdded" and params["entry"]["level"] == "error":
            tell(error=params["entry"].get("text", ""), at=params["entry"].get("url"))


main(sys.argv[1])
