"""A mail server for the tests: aiosmtpd with TLS and a login.

Usage: mail_server.py PORT DIRECTORY [starttls|tls] [NAME]. TLS comes with STARTTLS, or from the first byte; the certificate is for
NAME (IP:127.0.0.1 unless said). The certificate's authority stands in DIRECTORY/ca.pem afterwards. It prints `ready`, then
one JSON object for each message that it takes. Addresses that begin with `nobody` are refused for good; those that begin with
`later` are put off the first time.
"""
import asyncio
import email
import email.policy
import json
import os
import ssl
import subprocess
import sys

from aiosmtpd.smtp import SMTP, AuthResult


def certificate(directory, name):
    """A certificate for this name, signed by an authority of its own."""
    path = lambda name: os.path.join(directory, name)
    if os.path.exists(path("server.pem")):
        return path("server.pem"), path("server.key")
    run = lambda *args: subprocess.run(["openssl", *args], check=True, stderr=subprocess.DEVNULL)
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    run("req", "-x509", *curve, "-keyout", path("ca.key"), "-out", path("ca.pem"), "-days", "2", "-subj", "/CN=Tests",
        "-addext", "keyUsage=critical,keyCertSign")
    run("req", *curve, "-keyout", path("server.key"), "-out", path("server.csr"), "-subj", "/CN=127.0.0.1")
    with open(path("ext"), "w") as extensions:
        extensions.write(f"subjectAltName={name}\nbasicConstraints=CA:FALSE\n")
    run("x509", "-req", "-in", path("server.csr"), "-CA", path("ca.pem"), "-CAkey", path("ca.key"), "-CAcreateserial",
        "-out", path("server.pem"), "-days", "2", "-extfile", path("ext"))
    return path("server.pem"), path("server.key")


class Handler:
    def __init__(self):
        self.put_off = set()

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("nobody"):
            return "550 5.1.1 there is nobody of this name"
        if address.startswith("later") and address not in self.put_off:
            self.put_off.add(address)
            return "451 4.7.1 come again later"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        part = lambda kind: (message.get_body((kind,)) or message).get_content()
        print(json.dumps({
            "to": envelope.rcpt_tos, "from": envelope.mail_from, "id": message["Message-ID"], "subject": message["Subject"],
            "headers": message.keys(), "language": message["Content-Language"], "text": part("plain"), "html": part("html"),
            "tls": session.ssl is not None or server.transport.get_extra_info("ssl_object") is not None, "authenticated": session.authenticated,
        }), flush=True)
        return "250 OK"


def authenticate(server, session, envelope, mechanism, data):
    return AuthResult(success=(data.login, data.password) == (b"shop", b"a secret"))


async def main():
    port, directory = int(sys.argv[1]), sys.argv[2]
    mode, name = (sys.argv[3:] + ["starttls", "IP:127.0.0.1"][len(sys.argv) - 3:])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate(directory, name))
    handler = Handler()
    login = {"auth_required": True, "authenticator": authenticate}
    if mode == "tls":
        factory = lambda: SMTP(handler, auth_require_tls=False, **login)
    else:
        factory = lambda: SMTP(handler, tls_context=context, require_starttls=True, **login)
    outer = context if mode == "tls" else None
    server = await asyncio.get_running_loop().create_server(factory, "127.0.0.1", port, ssl=outer)
    print("ready", flush=True)
    await server.serve_forever()


asyncio.run(main())
