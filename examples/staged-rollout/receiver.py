"""A receiver of webhooks on this machine, for the play beside it: checks who sends, hands each event on, and serves a folder.

usage: receiver.py FOLDER KEYFILE HOOKS

A POST to /NAME is a webhook of that name. What is signed as Standard Webhooks say, with the key in KEYFILE (whsec_…), is written as a
line to HOOKS/NAME and answered with 204; anything else with 401, and nothing is written. A GET is answered from FOLDER. The port is
printed once it is open.
"""

import base64
import hashlib
import hmac
import http.server
import json
import os
import pathlib
import sys
import time

FOLDER, KEYFILE, HOOKS = sys.argv[1:]
KEY = base64.b64decode(pathlib.Path(KEYFILE).read_text().strip().removeprefix("whsec_"))
# An event that is older, or from the future, by more is taken for a replay.
TOLERANCE_S = 300
BODY_MAX = 1024 * 1024
seen = set()


def is_genuine(headers, body):
    sent = headers.get("webhook-timestamp", "")
    signed = b".".join([headers.get("webhook-id", "").encode(), sent.encode(), body])
    signature = "v1," + base64.b64encode(hmac.new(KEY, signed, hashlib.sha256).digest()).decode()
    given = headers.get("webhook-signature", "").split()
    good = any([hmac.compare_digest(signature.encode(), one.encode()) for one in given])
    return good and sent.isdigit() and abs(time.time() - int(sent)) <= TOLERANCE_S


class Handler(http.server.SimpleHTTPRequestHandler):
    def __init__(self, *arguments):
        super().__init__(*arguments, directory=FOLDER)

    def do_POST(self):
        hook = pathlib.Path(HOOKS, self.path.rpartition("/")[2])
        body = self.rfile.read(min(int(self.headers.get("content-length") or 0), BODY_MAX))
        if not is_genuine(self.headers, body):
            return self.answer(401)
        if not hook.is_fifo():
            return self.answer(404)
        # At least once is what is promised: what came before is taken, and told to nobody again.
        if (told := (hook.name, self.headers["webhook-id"])) not in seen:
            line = os.open(hook, os.O_WRONLY)
            os.write(line, json.dumps(json.loads(body)).encode() + b"\n")
            os.close(line)
            seen.add(told)
        self.answer(204)

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_arguments):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
