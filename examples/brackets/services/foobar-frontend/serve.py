"""The frontend of product foo: says which version it is, in which colour it was asked, and what its backend says.

It knows no colours of backends: SERVICE_PEERS leads to the one that belongs to it, by way of the proxy. Versions that end
in -broken start and are not healthy.
"""

import http.server
import json
import os
import urllib.request

VERSION = os.environ["SERVICE_VERSION"]
BACKEND = os.environ["SERVICE_PEERS"] + "foobar-backend/"


def backend():
    try:
        with urllib.request.urlopen(BACKEND, timeout=5) as answer:
            return json.load(answer)
    except (OSError, ValueError) as error:  # HTTP's errors are OSErrors
        return {"error": getattr(error, "code", None) or str(error)}


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
        if self.path != "/health":  # a frontend is healthy without its backend
            answer["backend"] = backend()
        content = json.dumps(answer).encode() + b"\n"
        self.send_response(200 if healthy else 500)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_arguments):
        pass


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["SERVICE_PORT"])), Handler).serve_forever()
