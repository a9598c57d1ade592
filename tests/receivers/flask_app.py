"""A receiver that sees requests as Flask does: its own parsing of queries, forms, JSON and authorization.

Prints its port, then for each request one line of JSON with all of that, and whether the PyPI `standardwebhooks` verifier accepted
the body. Reads lines `PATH standard SECRET HEADER` from standard input: which secret signs what arrives at which path. Ends when standard
input does.
"""

import json
import logging
import sys
import threading

from flask import Flask, request
from standardwebhooks import Webhook
from werkzeug.serving import make_server

SECRETS = {}
OUTPUT = threading.Lock()
app = Flask(__name__)


def say(line):
    with OUTPUT:
        print(line, flush=True)


def accepted(body):
    try:
        Webhook(SECRETS[request.path]).verify(body, {name.lower(): value for name, value in request.headers.items()})
    except json.JSONDecodeError:
        pass  # it reads what it has verified, and that need not be JSON
    except Exception:
        return False
    return True


@app.route("/<path:_>", methods=["POST", "PUT", "PATCH", "GET", "HEAD", "DELETE"])
def receive(_):
    body = request.get_data()
    authorization = request.authorization
    say(json.dumps({
        "method": request.method,
        "path": request.path,
        "accepted": accepted(body),
        "args": list(request.args.items(multi=True)),
        "form": list(request.form.items(multi=True)),
        "json": request.get_json(silent=True),
        "body": body.decode(),
        "key": request.headers.get("X-Key"),
        "authorization": authorization and [
            authorization.type, authorization.username, authorization.password, authorization.token,
        ],
    }))
    return "", 204


logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
say(server.server_port)
for line in sys.stdin:
    path, _, secret, _ = line.split()
    SECRETS[path] = secret
    say(json.dumps({"path": path, "known": True}))
