"""Stock, in Python: holds are made once per key, refused after their undo, and given back.

    PORT=9101 SECRET=whsec_... python3 stock.py

What it holds is in memory: a real service writes it into its database, in the transaction that makes the hold.
"""
import base64
import hashlib
import hmac
import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock

SECRET = base64.b64decode(os.environ["SECRET"].removeprefix("whsec_"))
TOLERANCE_SECONDS = 300
BODY_BYTES_MAX = 64 * 1024

lock = Lock()
on_hand = {"assam": 5, "sencha": 2}
holds = {}  # key -> (sku, quantity); None once it was undone


def is_signed(headers, body):
    """Standard Webhooks: an HMAC-SHA256 of id, time and body; an old one may be a replay."""
    message_id, timestamp = headers.get("webhook-id", ""), headers.get("webhook-timestamp", "")
    if not timestamp.isdigit() or abs(time.time() - int(timestamp)) > TOLERANCE_SECONDS:
        return False
    signed = f"{message_id}.{timestamp}.".encode() + body
    expected = "v1," + base64.b64encode(hmac.digest(SECRET, signed, hashlib.sha256)).decode()
    return any(hmac.compare_digest(one, expected) for one in headers.get("webhook-signature", "").split())


def hold(key, sku, quantity):
    with lock:
        if key in holds:
            # The same key again: the same answer. After its undo: no, for good.
            return (200, {"held": holds[key][1]}) if holds[key] else (409, {"reason": "undone before"})
        if on_hand.get(sku, 0) < quantity:
            return 409, {"reason": f"too little {sku}"}
        on_hand[sku] -= quantity
        holds[key] = (sku, quantity)
        return 201, {"held": quantity}


def release(undoes):
    with lock:
        held = holds.get(undoes)
        if held:
            on_hand[held[0]] += held[1]
        # Also if nothing was held: the hold may still be on its way, and must be refused then.
        holds[undoes] = None
        return 200, {}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        length = int(self.headers.get("content-length", 0))
        body = self.rfile.read(min(length, BODY_BYTES_MAX))
        if not is_signed(self.headers, body):
            return self.answer(401, {"reason": "not signed by who should"})
        if self.path == "/holds":
            order = json.loads(body)
            return self.answer(*hold(self.headers["idempotency-key"], order["sku"], order["quantity"]))
        if self.path == "/releases":
            return self.answer(*release(self.headers["comanda-undoes"]))
        return self.answer(404, {})

    def do_GET(self):
        with lock:
            self.answer(200, on_hand)

    def answer(self, status, body):
        text = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_):
        pass


ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
