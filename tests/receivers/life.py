"""The receiver of a webhook's whole life, in Python: Flask, and the verifier of PyPI `standardwebhooks`.

Prints its port, then for each request one line of JSON: the path, the event's id, the attempt, how many signatures there are, whether
the verifier accepted it and why not, and the status it is answered with: 401 if it was not accepted. Reads lines from standard
input, each answered by a line once it holds: `secret WHSEC`, what signs from now on, and `answer STATUS`, how whatever is accepted is
answered from now on. Ends when standard input does. `life.cjs` is the same in JavaScript.
"""

import json
import logging
import sys
import threading

from flask import Flask, request
from standardwebhooks import Webhook
from werkzeug.serving import make_server

OUTPUT = threading.Lock()
app = Flask(__name__)
now = {"secret": None, "answer": 204}


def say(line):
    with OUTPUT:
        print(json.dumps(line), flush=True)


@app.post("/<path:_>")
def receive(_):
    headers = {name.lower(): value for name, value in request.headers.items()}
    why = ""
    try:
        Webhook(now["secret"]).verify(request.get_data(), headers)
    except Exception as error:  # whatever it raises is a refusal
        why = repr(error)
    status = 401 if why else now["answer"]
    say({
        "path": request.path,
        "id": headers.get("webhook-id"),
        "attempt": int(headers.get("webhook-attempt", 0)),
        "signatures": len(headers.get("webhook-signature", "").split()),
        "accepted": not why,
        "why": why,
        "status": status,
    })
    return "", status


logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = make_server("127.0.0.1", 0, app, threaded=True)
threading.Thread(target=server.serve_forever, daemon=True).start()
say(server.server_port)
for line in sys.stdin:
    what, value = line.split()
    now[what] = int(value) if what == "answer" else value
    say({"done": line.strip()})
