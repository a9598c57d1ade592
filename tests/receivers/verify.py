"""A receiver that believes nothing but the PyPI `standardwebhooks` verifier.

Prints its port, then for each request one line of JSON: the path, the event's id, whether the verifier accepted it, and the
body in base64. Reads lines `PATH SECRET` from standard input: which secret signs what arrives at which path. Ends when
standard input does.
"""

import base64
import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from standardwebhooks import Webhook

SECRETS = {}
OUTPUT = threading.Lock()


def say(line):
    with OUTPUT:
        print(line, flush=True)


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        # The verifier looks headers up by lower-case name.
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            Webhook(SECRETS[self.path]).verify(body, headers)
            accepted, why = True, ""
        except Exception as error:  # whatever it raises is a refusal
            accepted, why = False, repr(error)
        say(json.dumps({
            "path": self.path,
            "id": headers.get("webhook-id"),
            "accepted": accepted,
            "why": why,
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
    path, secret = line.split()
    SECRETS[path] = secret
    say(json.dumps({"path": path, "known": True}))
