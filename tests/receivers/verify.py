"""A receiver that believes nothing but verifiers of others.

Prints its port, then for each request one line of JSON: the path, the event's id, whether the verifier of that path accepted it
and why not, the signature it looked at, and the body in base64. Reads lines `PATH KIND KEY HEADER` from standard input: what
verifies what arrives at which path. Ends when standard input does.

KIND          who verifies                                        HEADER
standard      PyPI `standardwebhooks`                             `webhook-signature`
svix          PyPI `svix`                                         `svix-signature`
v1a           ed25519 of PyPI `cryptography`, by a public key     `webhook-signature`
stripe        PyPI `stripe`                                       any
github        `hmac` of Python, as GitHub's documentation does    any
"""

import base64
import hashlib
import hmac
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

VERIFIERS = {}
OUTPUT = threading.Lock()


def standard(key):
    from standardwebhooks import Webhook

    return lambda body, headers, _: Webhook(key).verify(body, headers)


def svix(key):
    from svix.webhooks import Webhook

    def verify(body, headers, _):
        # It would take those as well.
        assert not {"webhook-id", "webhook-timestamp", "webhook-signature"} & headers.keys()
        Webhook(key).verify(body, headers)

    return verify


def v1a(key):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    public_key = Ed25519PublicKey.from_public_bytes(base64.b64decode(key.removeprefix("whpk_")))

    def verify(body, headers, signatures):
        content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
        refusals = []
        for entry in signatures.split(" "):
            version, signature = entry.split(",")
            assert version == "v1a"
            try:
                return public_key.verify(base64.b64decode(signature), content)
            except Exception as error:
                refusals.append(error)
        raise ExceptionGroup("no signature is right", refusals)

    return verify


def stripe(key):
    from stripe import WebhookSignature

    return lambda body, _, signatures: WebhookSignature.verify_header(body, signatures, key, tolerance=300)


def github(key):
    def verify(body, _, signature):
        expected = "sha256=" + hmac.new(key.encode("utf-8"), msg=body, digestmod=hashlib.sha256).hexdigest()
        if not hmac.compare_digest(expected, signature):
            raise ValueError("Request signatures didn't match!")

    return verify


KINDS = {kind.__name__: kind for kind in (standard, svix, v1a, stripe, github)}


def say(line):
    with OUTPUT:
        print(line, flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        # The verifiers look headers up by lower-case name.
        headers = {name.lower(): value for name, value in self.headers.items()}
        verify, header = VERIFIERS[self.path]
        try:
            verify(body, headers, headers[header])
            accepted, why = True, ""
        except Exception as error:  # whatever it raises is a refusal
            accepted, why = False, repr(error)
        say(json.dumps({
            "path": self.path,
            "id": next(value for name, value in headers.items() if name.endswith("-id") and name != "webhook-delivery-id"),
            "accepted": accepted,
            "why": why,
            "signature": headers.get(header),
            "body": base64.b64encode(body).decode(),
        }))
        self.send_response(204 if accepted else 400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
say(server.server_address[1])
for line in sys.stdin:
    path, kind, key, header = line.split()
    VERIFIERS[path] = KINDS[kind](key), header
    say(json.dumps({"path": path, "known": True}))
