"""The backend of product foo: says which version it is, and in which colour it was asked.

Versions that end in -broken start and are not healthy. Nothing but the version differs between versions: what a real
service's files are, its build decides.
"""

import http.server
import json
import os

VERSION = os.environ["SERVICE_VERSION"]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        healthy = not VERSION.endswith("-broken")
        answer = {
            "service": os.environ["SERVICE_NAME"],
            "version": VERSION,
            "slot": os.environ["SERVICE_SLOT"],
            "colour": self.headers.get("Lockstep-Colour", "none"),
        }
        content = json.dumps(answer).encode() + b"\n"
        self.send_response(200 if healthy else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["SERVICE_PORT"])), Handler).serve_forever()
