"""The services that a storefront calls, for measuring: customers, payments and shipments on one port, each answer after a
given delay. Standard library only.

It keeps nothing but what it has to say again: `GET /{book}?key=…` finds no entry, because no answer is ever lost here. It answers
also what `comanda bench` asks of a server before it begins, so that the same load can be sent to it directly.

Usage: service.py PORT DELAY_MS
"""

import asyncio
import json
import sys

PORT, DELAY = int(sys.argv[1]), float(sys.argv[2]) / 1000
CALLS = {"count": 0}
# What `comanda bench` is told to have submitted.
ORDER = "01900000-0000-7000-8000-000000000000"


def answer(method: bytes, path: bytes) -> tuple[bytes, dict, bool]:
    """Status, body, and whether this is a call that counts."""
    parts = path.split(b"?")[0].strip(b"/").split(b"/")
    if parts[0] in (b"customers", b"payments", b"shipments"):
        if method == b"GET" and parts[0] != b"customers":
            return b"404 Not Found", {}, True
        name = parts[1].decode() if len(parts) > 1 else "e-1"
        return b"200 OK", {"id": name, "name": "Ada", "carrier": "Pigeon", "trackingNumber": "T-1"}, True
    if parts[0] == b"call":
        return b"202 Accepted", {"id": ORDER}, True
    if parts[0] == b"calls":
        return b"200 OK", CALLS, False
    if path.startswith(b"/v1/order-types/"):
        return b"200 OK", {"schema": {"examples": [{"order": "o-1", "key": "o-1:3", "amount": "14.90", "currency": "EUR"}]}}, False
    if path.startswith(b"/v1/orders/"):
        return b"200 OK", {"id": ORDER, "final": True, "version": 1}, False
    if path.startswith(b"/v1/orders"):
        return b"200 OK", {"items": []}, False
    return b"404 Not Found", {}, False


class Connection(asyncio.Protocol):
    """One connection, kept open; requests on it come one after the other."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        self.transport, self.received = transport, b""

    def data_received(self, data: bytes) -> None:
        self.received += data
        while (end := self.received.find(b"\r\n\r\n")) >= 0:
            head = self.received[:end].lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self.received) < end + 4 + length:
                return
            method, path, _ = self.received.split(b" ", 2)
            self.received = self.received[end + 4 + length :]
            status, body, counts = answer(method, path)
            text = json.dumps(body).encode()
            whole = b"HTTP/1.1 %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (status, len(text), text)
            if counts:
                CALLS["count"] += 1
            if counts and DELAY > 0:
                asyncio.get_running_loop().call_later(DELAY, self.write, whole)
            else:
                self.write(whole)

    def write(self, whole: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(whole)


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Connection, "127.0.0.1", PORT, backlog=1024)
    await server.serve_forever()


asyncio.run(main())
