"""A webhook receiver that knows nothing of Comanda: it verifies signatures by the Standard Webhooks specification, with
the standard library alone, and writes one line of JSON for each delivery. Usage: receiver.py SECRET"""

import base64, hashlib, hmac, json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = base64.b64decode(sys.argv[1].removeprefix("whsec_"))
WRITING = threading.Lock()


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        message_id, sent_at = self.headers["webhook-id"], self.headers["webhook-timestamp"]
        digest = hmac.new(KEY, f"{message_id}.{sent_at}.".encode() + body, hashlib.sha256).digest()
        expected = "v1," + base64.b64encode(digest).decode()
        given = self.headers["webhook-signature"].split(" ")
        verified = expected in given and abs(time.time() - int(sent_at)) < 300
        event = json.loads(body)
        line = {"id": message_id, "verified": verified and event["id"] == message_id,
                "order": event["subject"], "sequence": int(event["sequence"])}
        with WRITING:
            print(json.dumps(line), flush=True)
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
print(server.server_port, flush=True)
server.serve_forever()
