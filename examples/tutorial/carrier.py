"""The carrier, in Python: it answers 202 at once, and calls back when the parcel has a number.

    PORT=9103 SECRET=whsec_... python3 carrier.py

Orders to `nowhere` are refused by the callback.
"""
import base64
import hashlib
import hmac
import json
import os
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

SECRET = base64.b64decode(os.environ["SECRET"].removeprefix("whsec_"))
TOLERANCE_SECONDS = 300
BODY_BYTES_MAX = 64 * 1024

lock = Lock()
parcels = {}  # key -> tracking number; None once it was undone


def is_signed(headers, body):
    """Standard Webhooks: an HMAC-SHA256 of id, time and body; an old one may be a replay."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
    return any(hmac.compare_digest(one, expected) for one in headers.get("webhook-signature", "").split())


def book(key, address, callback):
    """The long work: it ends with the callback, which is repeated until somebody has heard it."""
    with lock:
        if address == "nowhere":
            result = {"kind": "refuse", "reason": "nobody goes there"}
        else:
            parcels.setdefault(key, f"TRK-{len(parcels) + 1}")
            if parcels[key] is None:
                return
            result = {"trackingNumber": parcels[key]}
    request = urllib.request.Request(
        callback, json.dumps(result).encode(), {"content-type": "application/json"}, method="POST"
    )
    for attempt in range(10):
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except urllib.error.HTTPError as error:
            if error.code < 500:
                return  # 410: the attempt is over, nobody waits for this any more.
        except OSError:
            pass
        time.sleep(min(2**attempt, 60))


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(min(length, BODY_BYTES_MAX))
        if not is_signed(self.headers, body):
            return self.answer(401)
        if self.path == "/parcels":
            key, callback = self.headers["idempotency-key"], self.headers["comanda-callback"]
            with lock:
                if parcels.get(key, "") is None:
                    return self.answer(409)
            self.answer(202)
            return Thread(target=book, args=(key, json.loads(body)["to"], callback), daemon=True).start()
        if self.path == "/recalls":
            with lock:
                parcels[self.headers["comanda-undoes"]] = None
            return self.answer(200)
        return self.answer(404)

    def answer(self, status):
        self.send_response(status)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
