#!/usr/bin/env python3
"""Drains the four queues of `work-order`, each in the order in which the orders entered its status.

It knows nothing of Comanda but three routes: claim, heartbeat, and complete or fail. Only the standard library is used.

    python3 drain.py                                   # prints each item as a line of JSON
    python3 drain.py --run 'sh handle.sh'              # runs a program for each, with the item on its stdin

It may be killed at any moment, and so may the server. What it held then is handed out again when the lease ends, with the
same `idempotencyKey`: a handler that keeps that key with what it does, does it once.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

QUEUES = ["ordenes-recibidas", "ordenes-en-proceso", "ordenes-completadas", "ordenes-canceladas"]
WAIT_SECONDS = 20  # how long the server holds a claim open until there is work
PAUSE_SECONDS_MAX = 5  # the longest pause between tries while the server cannot be reached
REFUSE = 65  # a handler's exit code for "no, for good" (EX_DATAERR)


class Server:
    """Sends requests until they are answered: a server that restarts is only slow."""

    def __init__(self, url, api_key):
        self.url = url.rstrip("/")
        self.headers = {"Content-Type": "application/json"}
        if api_key:
            self.headers["Authorization"] = f"Bearer {api_key}"

    def post(self, path, body):
        pause = 0.1
        while True:
            request = urllib.request.Request(self.url + path, json.dumps(body).encode(), self.headers)
            try:
                with urllib.request.urlopen(request, timeout=WAIT_SECONDS + 10) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                # 429 and 5xx pass; anything else is a mistake of ours, which no repetition mends.
                if error.code != 429 and error.code < 500:
                    sys.exit(f"{path}: {error.code} {error.read().decode()}")
            except (OSError, ValueError, urllib.error.URLError) as error:
                log(f"{path}: {error}; trying again")
            time.sleep(pause)
            pause = min(pause * 2, PAUSE_SECONDS_MAX)


def log(line):
    print(line, file=sys.stderr, flush=True)


def handle(item, options, extend):
    """Does the work of one item. Answers None if it is done, else the body of the item's `fail`."""
    line = json.dumps(item, ensure_ascii=False)
    if not options.run:
        print(line, flush=True)
        return None
    child = subprocess.Popen(options.run, shell=True, stdin=subprocess.PIPE, text=True)
    data = line + "\n"
    while True:
        try:
            child.communicate(data, timeout=options.lease / 3)
            break
        except subprocess.TimeoutExpired:
            data = None  # it was sent with the first call
            if not extend():
                child.kill()
                child.wait()
                return {"kind": "retry", "reason": "the claim has ended"}
    if child.returncode == 0:
        return None
    kind = "refuse" if child.returncode == REFUSE else "retry"
    return {"kind": kind, "reason": f"the handler ended with {child.returncode}", "delaySeconds": options.retry}


def drain(queue, server, options):
    """Takes what the queue has, for ever. Items of one lane come one after the other, in order."""
    path = f"/v1/queues/{urllib.parse.quote(queue, safe='')}/claims"
    asked = {"max": options.max, "waitSeconds": WAIT_SECONDS, "leaseSeconds": options.lease, "worker": options.worker}
    while True:
        for item in server.post(path, asked)["items"]:
            token = item["token"]

            def extend():
                body = {"items": [{"token": token}], "leaseSeconds": options.lease}
                return server.post("/v1/claims/heartbeat", body)["items"][0]["status"] == "done"

            # Others of the same claim may have taken their time: is this one still ours?
            if options.max > 1 and not extend():
                continue
            failure = handle(item, options, extend)
            answer = {"token": token, **failure} if failure else {"token": token}
            outcome = server.post(f"/v1/claims/{'fail' if failure else 'complete'}", {"items": [answer]})["items"][0]
            # `stale` after an answer that was lost on the way means that the first one counted, or that the lease had
            # ended meanwhile; then the item comes again.
            log(f"{queue}: {item['orderId']} attempt {item['attempt']}: {failure['kind'] if failure else 'complete'}, "
                f"{outcome['status']}")


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--url", default=os.environ.get("COMANDA_URL", "http://127.0.0.1:8080"))
    arguments.add_argument("--queue", action="append", help="this queue instead of the four; may be repeated")
    arguments.add_argument("--run", help="a shell command for each item; 0: done, 65: refused, else: try again")
    arguments.add_argument("--lease", type=int, default=30, help="seconds that a claim lasts (30)")
    arguments.add_argument("--max", type=int, default=1, help="items of one claim (1)")
    arguments.add_argument("--retry", type=int, default=1, help="seconds before a failed item comes again (1)")
    arguments.add_argument("--worker", default=f"drain-{os.getpid()}")
    options = arguments.parse_args()
    server = Server(options.url, os.environ.get("COMANDA_API_KEY"))
    threads = []
    for queue in options.queue or QUEUES:
        thread = threading.Thread(target=drain, args=(queue, server, options), daemon=True)
        thread.start()
        threads.append(thread)
    try:
        # A thread ends only when the server has refused what it asked.
        while all(thread.is_alive() for thread in threads):
            time.sleep(0.5)
        sys.exit(1)
    except KeyboardInterrupt:
        pass  # what is claimed comes again when its lease ends


if __name__ == "__main__":
    main()
