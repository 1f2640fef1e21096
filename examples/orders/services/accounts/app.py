"""An API that says what it was told, without what is secret: of a variable of the vault, a digest."""

import hashlib
import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOLD = {
    "service": os.environ["SERVICE_ID"],
    "revision": 1,
    "commit": os.environ["SERVICE_COMMIT"],
    "process": os.getpid(),
    "environment": f"{os.environ['ENVIRONMENT_ID']} {os.environ['ENVIRONMENT_MODE']}",
    "discovery": os.environ["DISCOVERY_URL"],
    "password": hashlib.sha256(os.environ["DATABASE_PASSWORD"].encode()).hexdigest(),
}


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps(TOLD | {"path": self.path, "prefix": self.headers.get("X-Forwarded-Prefix", "")}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Answer).serve_forever()
