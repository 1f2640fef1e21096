"""What the tests share: the folder under test, a certificate, and an HTTPS server that plays the dispatcher."""

import http.server
import importlib.util
import json
import ssl
import subprocess
import sys
import threading
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
JOB = "01GZEC5GJHFKWMK4Z5A1NM9DPF"


def load(path):
    """A file of this folder as a module, wherever it is."""
    spec = importlib.util.spec_from_file_location("under_test_" + path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# Modules find it where Ansible puts it; here it is found under that name without Ansible.
HOST = sys.modules["ansible.module_utils.lockstep_host"] = load(ROOT / "module_utils" / "lockstep_host.py")
TYPE = sys.modules["ansible.module_utils.lockstep_type"] = load(ROOT / "module_utils" / "lockstep_type.py")
SLOT = sys.modules["ansible.module_utils.lockstep_slot"] = load(ROOT / "module_utils" / "lockstep_slot.py")


def certificate(folder, *names):
    """Makes key.pem and ca.crt (self-signed, for 127.0.0.1, localhost and `names`) in `folder`."""
    alternatives = ",".join(["IP:127.0.0.1", "DNS:localhost", *names])
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
        + ["-subj", "/CN=lockstep-test", "-addext", f"subjectAltName={alternatives}"]
        + ["-keyout", f"{folder}/key.pem", "-out", f"{folder}/ca.crt"],
        check=True,
        capture_output=True,
    )


class FakeApi:
    """Answers POSTs by `answer(path, body) -> (status, headers, object)` and keeps them in `requests`."""

    def __init__(self, folder, answer=None, address="127.0.0.1", port=0):
        self.requests, self.arrived, self.connections = [], threading.Condition(), 0
        self.answer = answer or (lambda path, body: (204, {}, None))
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self):
                super().setup()
                fake.connections += 1

            def do_POST(self):
                raw = self.rfile.read(int(self.headers["Content-Length"]))
                body = json.loads(raw)
                status, headers, answer = fake.answer(self.path, body)
                # Kept before it is answered: who has the answer may look at once.
                with fake.arrived:
                    fake.requests.append((self.path, dict(self.headers), body, len(raw)))
                    fake.arrived.notify_all()
                content = b"" if answer is None else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if status != 204:
                    self.send_header("Content-Type", "application/json")
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):
                status, _headers, answer = fake.answer(self.path, None)
                content = json.dumps(answer).encode()
                with fake.arrived:
                    fake.requests.append((self.path, dict(self.headers), None, 0))
                    fake.arrived.notify_all()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_arguments):
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, _request, _client_address):
                pass  # a client that gave up is what some tests are about

        self.server = Server((address, port), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(f"{folder}/ca.crt", f"{folder}/key.pem")
        # The handshake is the connection's own thread's business, so that a dead client does not stop others.
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        self.port = self.server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_error):
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()

    def wait(self, condition, seconds=10):
        """The requests, once `condition(requests)` holds."""
        with self.arrived:
            assert self.arrived.wait_for(lambda: condition(self.requests), seconds), self.requests
            return list(self.requests)

    @property
    def bodies(self):
        return [body for _path, _headers, body, _size in self.requests]
