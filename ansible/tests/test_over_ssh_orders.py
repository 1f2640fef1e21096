"""Orders over SSH, task by task as the dispatcher runs them: two hosts, four services of all types, and repositories that git serves.

What a client gets from the proxy is what is judged, and which processes run. Everything that the dispatcher says to a job is in
`lockstep_order`; this plays the dispatcher.
"""

import base64
import concurrent.futures
import contextlib
import hashlib
import http.client
import io
import json
import socket
import unittest
import zipfile

from tests.test_over_ssh import LABEL, RUNNER, TARGET, Case, docker, wait_for

PROXY_PORT = 8080
API, FRONT = "manager-api.lab.test", "manager-angular.lab.test"
MACHINES = ("host-a", "host-b")
# Nothing of this may be seen anywhere but in the process that gets it.
SECRET = "s3cr3t '\"$(id)` {{ 7 * 6 }}\n\\n ü"

NODE = """
const http = require("http"), crypto = require("crypto");
const server = http.createServer((request, response) => {
  const secret = crypto.createHash("sha256").update(process.env.DATABASE_PASSWORD || "").digest("hex");
  response.setHeader("Content-Type", "application/json");
  response.end(JSON.stringify({version: "VERSION", url: request.url, headers: request.headers, secret, pid: process.pid,
    discovery: process.env.DISCOVERY_URL}));
});
server.on("upgrade", (request, socket) => {
  socket.write("HTTP/1.1 101 Switching Protocols\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\\r\\n");
  socket.on("data", data => socket.write(String(data).toUpperCase()));
});
console.log("this is version VERSION");
server.listen(process.env.PORT, process.env.HOST);
"""

PYTHON = """
import http.server, json, os, greeting
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = json.dumps({"version": "VERSION", "url": self.path, "pid": os.getpid(), "greeting": greeting.TEXT}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_arguments):
        pass
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""

BUILD = """
const fs = require("fs");
fs.mkdirSync("dist/app/browser", {recursive: true});
fs.writeFileSync("dist/app/browser/index.html", "angular VERSION");
fs.writeFileSync("dist/app/browser/main.js", "// main");
"""


def wheel(name, text):
    """A package as pip installs it without asking anybody."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        info = f"{name}-1.0.dist-info"
        archive.writestr(f"{name}.py", text)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return content.getvalue()


def sources(kind, version):
    """The files of a repository, by name."""
    files = {
        "node": {"index.js": NODE, "package.json": json.dumps({"name": "core", "scripts": {"start": "node index.js"}})},
        "python": {"app.py": PYTHON, "requirements.txt": "# one\n./greeting-1.0-py3-none-any.whl\n"},
        "static": {"public/index.html": "static VERSION", "public/.env": "no", ".gitattributes": "public export-ignore\n"},
        "angular": {"build.js": BUILD, "package.json": json.dumps({"name": "front", "scripts": {"build": "node build.js"}})},
    }[kind]
    files = {name: text.replace("VERSION", version).encode() for name, text in files.items()}
    if kind == "python":
        files["greeting-1.0-py3-none-any.whl"] = wheel("greeting", "TEXT = 'hello'\n")
    return files


class Orders(Case):
    HOSTS = ()

    @classmethod
    def start_target(cls):
        cls.targets, cls.addresses = {}, {}
        for host in MACHINES:
            cls.targets[host] = docker(
                "run", "-d", "--name", f"{cls.name}-{host}", "--label", LABEL, "--network", cls.name,
                "-v", f"{cls.folder}/target:/run/target:ro", TARGET,
            ).stdout.strip()  # fmt: skip
            cls.addClassCleanup(docker, "rm", "-f", cls.targets[host])
            cls.addresses[host] = cls.address_of(cls.targets[host])
        cls.git = docker(
            "run", "-d", "--name", f"{cls.name}-git", "--label", LABEL, "--network", cls.name, "--network-alias", "git",
            "--entrypoint", "git", RUNNER, "daemon", "--reuseaddr", "--export-all", "--base-path=/home/runner", "/home/runner",
        ).stdout.strip()  # fmt: skip
        cls.addClassCleanup(docker, "rm", "-f", cls.git)
        # What the superclass works on.
        cls.target, cls.address = cls.targets["host-a"], cls.addresses["host-a"]
        git_address = cls.address_of(cls.git)
        for address, port in ((cls.addresses["host-a"], 22), (cls.addresses["host-b"], 22), (git_address, 9418)):
            wait_for(f"port {port} of {address}", lambda address=address, port=port: cls.opens(address, port))
        cls.host_key = " ".join(cls.on("host-a", "cat /etc/ssh/ssh_host_ed25519_key.pub || ssh-keygen -y -f /etc/ssh/ssh_host_ed25519_key", "root").split()[:2])

    @classmethod
    def address_of(cls, container):
        return json.loads(docker("inspect", container).stdout)[0]["NetworkSettings"]["Networks"][cls.name]["IPAddress"]

    @classmethod
    def opens(cls, address, port):
        with socket.socket() as probe:
            return probe.connect_ex((address, port)) == 0

    @classmethod
    def on(cls, host, command, user="deploy"):
        return docker("exec", "--user", user, cls.targets[host], "sh", "-c", command).stdout

    def setUp(self):
        self.api.requests.clear()
        left = "-u deploy -f 'runsv|svlogd|nginx: |node|python|listener.py'"
        clear = f"pkill -KILL {left}; while pgrep {left} >/dev/null; do sleep 0.05; done; rm -rf /srv/orders/* /var/lib/lockstep/*"
        for host in MACHINES:
            docker("exec", self.targets[host], "sh", "-c", clear)
        docker("exec", self.git, "sh", "-c", "rm -rf /home/runner/*.git")
        self.variables = {"6": {"DATABASE_PASSWORD": SECRET, "EMPTY": ""}, "7": {}, "8": {}, "9": {}}
        self.services = {
            "6": {"type": "node", "domain": API, "path": "/core", "host": "host-a", "environment": {"DISCOVERY_URL": "http://discovery/{{ x }}", "STAGE": "production", "ID": "6"}},
            "7": {"type": "python", "domain": API, "path": "/", "host": "host-b"},
            "8": {"type": "static", "domain": FRONT, "path": "/docs", "host": "host-a"},
            "9": {"type": "angular", "domain": FRONT, "path": "/", "host": "host-b"},
        }
        self.recorded, self.commits, self.said, self.deployed = {}, {}, {}, {}

    # --- repositories

    def commit(self, service, version="1.0", files=None, more=""):
        """A commit in the repository of the service; returns its id."""
        files = sources(self.services[service]["type"], version) if files is None else files
        lines = [f"mkdir -p /tmp/work && cd /tmp/work && rm -rf * .git* && git init -q -b main . && git config user.email a@b && git config user.name a"]
        lines.append(f"if [ -d /home/runner/{service}.git ]; then git fetch -q /home/runner/{service}.git main && git reset -q --soft FETCH_HEAD; fi")
        for name, content in files.items():
            lines.append(f"mkdir -p $(dirname {name}) && echo {base64.b64encode(content).decode()} | base64 -d > {name}")
        lines.append(f"git add -A -f && git commit -q --allow-empty -m x {more}")
        lines.append(f"[ -d /home/runner/{service}.git ] || git init -q --bare -b main /home/runner/{service}.git")
        lines.append(f"git push -q /home/runner/{service}.git HEAD:main && git rev-parse HEAD")
        return docker("exec", "-i", self.git, "sh", "-e", input="\n".join(lines)).stdout.strip()

    def commit_all(self):
        return {service: self.commit(service) for service in self.services}

    # --- what the dispatcher does

    def task(self, task, name="environment", code=0, hosts=MACHINES, job=None, fence=None, **told):
        values = {
            "environment": "3", "mode": "production", "order": 1, "action": "update", "task": task,
            "hosts": [{"name": host, "address": self.addresses[host], "port": 22, "user": "deploy", "host_key": self.host_key, "key": "id_ed25519"}
                      for host in hosts],
            "proxy": {"host": "host-a", "port": PROXY_PORT}, **told,
        }  # fmt: skip
        job = job or self.job_id()
        inventory = f"3/{name}"
        ended, output, _job = self.run_job(inventory, job, fence, {"lockstep_order": values}, command=["order", task, inventory, job])
        self.assertEqual(ended, code, output)
        self.said[task, name] = " ".join(output.split())
        self.assert_no_secret(output)
        posted = [body for path, _, body, _ in self.api.requests if job in path]
        self.assert_no_secret(json.dumps(posted, ensure_ascii=False))
        self.changes = sum(counts["changed"] for counts in posted[-1]["recap"].values())
        return posted[-1].get("outputs", {})

    def assert_no_secret(self, text):
        for values in self.variables.values():
            for value in filter(None, values.values()):
                self.assertNotIn(value, text)
                self.assertNotIn(json.dumps(value)[1:-1], text)
        self.assertNotIn("s3cr3t", text)

    @property
    def domains(self):
        return sorted({service["domain"] for service in self.services.values()})

    def repository(self, service):
        return f"git://git/{service}.git"

    def resolve(self, code=0):
        repositories = [{"service": name, "url": service.get("url", self.repository(name)), "revision": service.get("revision")}
                        for name, service in self.services.items()]  # fmt: skip
        recorded = [{"service": name, "host": self.services[name]["host"], "port": port, "variables": sorted(self.variables[name]),
                     "commit": self.deployed.get(name)} for name, port in self.recorded.items() if name in self.services]  # fmt: skip
        outputs = self.task("domains", code=code, domains=self.domains, repositories=repositories, recorded=recorded)
        self.commits, self.anew, self.lost = outputs.get("commits", {}), outputs.get("proxy_anew"), outputs.get("lost")

    def place(self, code=0, **more):
        placements = [{"service": name, "host": service["host"], "ports": [20000, 20009], "taken": sorted(self.recorded.values()),
                       "port": self.recorded.get(name)} for name, service in self.services.items()]  # fmt: skip
        ports = self.task("resources", code=code, placements=placements, **more).get("ports", {})
        self.recorded.update(ports)
        return ports

    def write_variables(self):
        self.task("variables", variables={name: {"host": service["host"], "values": self.variables[name]} for name, service in self.services.items()})

    def deploy_one(self, name, code=0, **more):
        service = self.services[name]
        told = {"id": name, "operation": "deploy", "type": service["type"], "host": service["host"], "port": self.recorded[name],
                "repository": {"url": self.repository(name), "commit": self.commits[name]}, "health": service.get("health", "/"),
                "environment": service.get("environment", {}), "variables": sorted(self.variables[name])}  # fmt: skip
        outputs = self.task("service", name, code=code, hosts=[service["host"]], service=told, **more)
        if code == 0:
            self.deployed[name] = self.commits[name]
        return outputs

    def deploy_services(self, fails=()):
        with concurrent.futures.ThreadPoolExecutor() as threads:
            return dict(zip(self.services, threads.map(lambda name: self.deploy_one(name, 2 if name in fails else 0), self.services)))

    def remove(self, name, host):
        self.task("service", name, hosts=[host], service={"id": name, "operation": "remove", "host": host})

    def route(self, code=0, **changes):
        routes = [{"domain": service["domain"], "path": service["path"], "service": name, "port": self.recorded[name],
                   "address": self.addresses[service["host"]], **changes} for name, service in self.services.items()]  # fmt: skip
        self.task("routes", code=code, routes=routes, domains=self.domains)

    def apply(self, fails=()):
        self.resolve()
        self.place()
        self.write_variables()
        outputs = self.deploy_services(fails)
        self.route()
        return outputs

    # --- what clients and operators see

    def get(self, domain, path, **headers):
        connection = http.client.HTTPConnection(self.address, PROXY_PORT, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path, headers={"Host": domain, **headers})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

    def json(self, domain, path, **headers):
        status, text = self.get(domain, path, **headers)
        self.assertEqual(status, 200, text)
        return json.loads(text)

    def processes(self):
        """Session of each service and what looks after it, by host."""
        look = "cat /srv/orders/3+production/services/*/unit/group /srv/orders/*/services/*/unit/supervise/pid /srv/orders/*/proxy/nginx.pid; pgrep -u deploy -f '[n]ginx: worker' || :"
        return {host: self.on(host, look + " 2>/dev/null || :") for host in MACHINES}

    def releases(self, service):
        return self.on(self.services[service]["host"], f"cd /srv/orders/3+production/services/{service} && ls -d *-*").split()

    # --- tests

    def test_an_order_from_nothing_and_what_changes_after_it(self):
        commits = self.commit_all()
        self.resolve()
        self.assertEqual((self.commits, self.anew), (commits, True))
        self.assertEqual(self.get(API, "/core"), (404, "nothing is routed here\n"))
        self.assertEqual(self.get("other.test", "/")[0], 404)
        self.assertEqual(self.place(), {"6": 20000, "7": 20000, "8": 20001, "9": 20001})
        self.write_variables()
        outputs = self.deploy_services()
        self.assertEqual(outputs["6"], {"service": "6", "commit": commits["6"], "changed": True})
        self.route()

        core = self.json(API, "/core/x?y=%20z")
        self.assertEqual((core["version"], core["url"]), ("1.0", "/x?y=%20z"))
        self.assertEqual(core["secret"], hashlib.sha256(SECRET.encode()).hexdigest())
        self.assertEqual(core["discovery"], "http://discovery/{{ x }}")
        headers = core["headers"]
        self.assertEqual((headers["host"], headers["x-forwarded-prefix"], headers["x-forwarded-proto"], headers["x-forwarded-host"]), (API, "/core", "http", API))
        self.assertIn("x-forwarded-for", headers)
        self.assertEqual(self.json(API, "/core")["url"], "/")
        # Not at the border of a path: another service's.
        self.assertEqual(self.json(API, "/corex")["greeting"], "hello")
        self.assertEqual(self.json(API, "/a%2Fb")["url"], "/a%2Fb")
        self.assertEqual(self.get(FRONT, "/docs/"), (200, "static 1.0"))
        self.assertEqual(self.get(FRONT, "/docs/none")[0], 404)
        self.assertEqual(self.get(FRONT, "/docs/.env")[0], 404)
        self.assertEqual(self.get(FRONT, "/"), (200, "angular 1.0"))
        self.assertEqual(self.get(FRONT, "/a/page/of/it"), (200, "angular 1.0"))
        self.assertEqual(self.get(FRONT, "/main.js"), (200, "// main"))
        self.assert_websocket_passes()
        names = self.on("host-a", "cat /srv/orders/3+production/proxy/hosts")
        self.assertEqual(names.splitlines()[1:], [f"{self.address} {FRONT}", f"{self.address} {API}"])
        self.assert_secrets_are_kept()

        # Repeated, nothing changes.
        before = self.processes()
        self.resolve()
        self.assertIs(self.anew, False)
        self.place()
        self.assertEqual(self.changes, len(MACHINES), "the fences alone")
        self.write_variables()
        outputs = self.deploy_services()
        self.assertEqual([output["changed"] for output in outputs.values()], [False] * 4)
        self.route()
        self.assertEqual(self.processes(), before)

        # A new commit, of one service.
        pid = self.json(API, "/")["pid"]
        self.commit("6", "2.0")
        self.apply()
        after = self.json(API, "/core")
        self.assertEqual(after["version"], "2.0")
        self.assertNotEqual(after["pid"], core["pid"])
        self.assertEqual(self.json(API, "/")["pid"], pid)
        self.assertEqual(self.processes()["host-b"], before["host-b"])
        self.assertEqual(len(self.releases("6")), 2)

    def assert_websocket_passes(self):
        with socket.create_connection((self.address, PROXY_PORT), timeout=10) as connection, connection.makefile("rb") as answer:
            connection.sendall(f"GET /core/ws HTTP/1.1\r\nHost: {API}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n".encode())
            self.assertIn(b"101", answer.readline())
            while answer.readline().strip():
                pass
            connection.sendall(b"hello")
            self.assertEqual(answer.read(5), b"HELLO")

    def assert_secrets_are_kept(self):
        self.assertEqual(self.on("host-a", "cd /srv/orders/3+production/services && stat -c %a 6 6/secrets.env 6/*-*/environment.env").split(), ["700", "600", "600"])
        for host in MACHINES:
            self.assert_no_secret(self.on(host, "cat /proc/[0-9]*/cmdline | tr '\\0' ' '", "root"))
        # Also what the supervisor hands on has nothing of it, nor of the connection that started it.
        environ = self.on("host-a", "cat /proc/$(pgrep -u deploy runsvdir)/environ | tr '\\0' '\\n'")
        self.assertNotIn("SSH_", environ)
        self.assert_no_secret(environ)

    def test_nothing_is_touched_when_a_repository_cannot_be_had(self):
        self.commit("6")
        self.commit("9")
        self.services["7"]["url"] = "http://user:passw0rd@git:1/7.git"
        self.services["8"]["url"] = "ext::sh -c id"
        self.services["9"]["revision"] = "no-such-branch"
        self.resolve(code=2)
        said = self.said["domains", "environment"]
        self.assertIn("repository of service 7 (http://git:1/7.git):", said)
        self.assertIn("repository of service 8 (ext::sh -c id):", said)
        self.assertIn(f"repository of service 9 ({self.repository('9')}): there is no branch, tag or full commit id 'no-such-branch'", said)
        self.assertNotIn("passw0rd", said)
        self.assertNotIn("service 6 ", said)
        for host in MACHINES:
            self.assertEqual(self.on(host, "ls -A /srv/orders /var/lib/lockstep").split(), ["/srv/orders:", "/var/lib/lockstep:"])

    def test_a_host_is_known_by_its_key_alone(self):
        self.host_key, right = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIEY0g4wUyT4rLbtZ+SNKlAIH2jmZW2SxQK9gZc2vGm8V", self.host_key
        self.addCleanup(setattr, self, "host_key", right)
        self.services = {}
        self.resolve(code=2)
        self.assertIn("Host key verification failed", self.said["domains", "environment"])
        self.assertEqual(self.on("host-a", "ls -A /srv/orders"), "")

    def listen(self, host, port):
        """A process of nobody's that listens on a port."""
        line = f"import socket; s = socket.create_server(('', {port})); \nwhile True: s.accept()"
        docker("exec", "-d", "--user", "deploy", self.targets[host], "sh", "-c", f'exec python3 -c "{line}" listener.py')
        wait_for(f"a listener on {port}", lambda: self.opens(self.addresses[host], port))

    def test_what_fails_leaves_what_was(self):
        self.services = {name: self.services[name] for name in ("6", "8")}
        first = self.commit_all()
        self.listen("host-a", 20000)
        self.resolve()
        self.assertEqual(self.place(), {"6": 20001, "8": 20002})
        # A crash before anybody was told: the same is chosen again. A port that is recorded and that something else has is named.
        self.recorded = {}
        self.assertEqual(self.place(), {"6": 20001, "8": 20002})
        self.recorded["8"] = 20000
        self.place(code=2)
        self.assertRegex(self.said["resources", "environment"], r"port 20000 of service 8: on host-a process [0-9]+ \(python3\) listens there")
        self.recorded["8"] = 20002

        # Nothing was there before.
        self.write_variables()
        broken = {"index.js": b"console.log(process.env.DATABASE_PASSWORD); throw new Error('no way')"}
        self.commits["6"] = self.commit("6", files=broken)
        self.deploy_one("6", code=2)
        said = self.said["service", "6"]
        for words in ("it keeps ending", "no way", "nothing is live: nothing was before"):
            self.assertIn(words, said)
        self.assertEqual(self.on("host-a", "pgrep -u deploy node || :"), "")
        self.commits["6"] = first["6"]
        self.deploy_services()
        self.route()
        core = self.json(API, "/core/")

        # One that does not start, one that cannot be built, and one that is nowhere.
        self.commits["6"] = self.commit("6", files=broken)
        self.deploy_one("6", code=2)
        self.assertIn(f"what ran before is live again: commit {first['6']}", self.said["service", "6"])
        again = self.json(API, "/core/")
        self.assertEqual(again["version"], "1.0")
        self.services["6"]["type"] = "angular"
        files = {"package.json": json.dumps({"scripts": {"build": "echo cannot be built >&2; exit 7"}}).encode()}
        self.commits["6"] = self.commit("6", files=files)
        self.deploy_one("6", code=2)
        self.assertIn("cannot be built", self.said["service", "6"])
        self.services["6"]["type"] = "node"
        self.commits["6"] = "0123456789" * 4
        self.deploy_one("6", code=2)
        self.assertIn(f"repository {self.repository('6')}: there is no commit", self.said["service", "6"])
        self.assertEqual(self.json(API, "/core/")["pid"], again["pid"])
        self.assertNotEqual(core["pid"], again["pid"])

        # Routes that nginx does not take.
        file = "cat /srv/orders/3+production/proxy/nginx.conf"
        before = self.on("host-a", file)
        self.route(code=2, address="no-such-host.invalid")
        self.assertIn("host not found in upstream", self.said["routes", "environment"])
        self.assertEqual(self.on("host-a", file), before)
        self.assertEqual(self.json(API, "/core/")["pid"], again["pid"])

        # A job that was overtaken.
        self.commits["6"] = first["6"]
        self.deploy_one("6", code=2, fence=self.fence - 100)
        self.assertIn("a newer job was here", self.said["service", "6"])
        self.assertEqual(sorted(self.on("host-a", "cd /var/lib/lockstep/fence && ls *.json").split()), ["3+6.json", "3+8.json", "3+environment.json"])

    def test_what_died_runs_again_and_what_is_removed_is_gone(self):
        self.services = {name: self.services[name] for name in ("6", "8")}
        self.commit_all()
        self.apply()
        pid = self.json(API, "/core/")["pid"]
        self.on("host-a", f"kill -9 {pid}")

        def again():
            status, text = self.get(API, "/core/")
            return status == 200 and json.loads(text)["pid"] != pid

        wait_for("the process that runsv starts", again)

        # The supervisors are killed, and what they started is left behind; the proxy is gone.
        self.on("host-a", "pkill -KILL runsvdir; pkill -KILL runsv; pkill -KILL -f '[n]ginx: master process nginx -p /srv/orders/3.production/proxy'; "
                "while pgrep -u deploy 'runsv' >/dev/null; do sleep 0.05; done")  # fmt: skip
        outputs = self.deploy_services()
        self.assertEqual({name: output["changed"] for name, output in outputs.items()}, {"6": True, "8": True})
        self.route()
        self.assertEqual(self.json(API, "/core/")["version"], "1.0")

        # As after a reboot: nothing of this user runs. The first task of any order brings it back, and the rest has nothing to do.
        pid = self.json(API, "/core/")["pid"]
        for host in MACHINES:
            self.on(host, "pkill -KILL -u deploy runsvdir; pkill -KILL -u deploy runsv; pkill -KILL -u deploy svlogd; "
                    "pkill -KILL -u deploy nginx; pkill -KILL -u deploy node; true")  # fmt: skip
        self.resolve()
        wait_for("what a reboot has stopped", again)
        outputs = self.apply()
        self.assertEqual({name: output["changed"] for name, output in outputs.items()}, {"6": False, "8": False})

        # What somebody has removed is named, and nothing is started without it.
        self.on("host-a", "rm /srv/orders/3+production/services/6/secrets.env")
        outputs = self.deploy_one("6", code=2)
        self.assertEqual(outputs["lost"], {"6": ["variables"]})
        words = "in /srv/orders/3+production/services/6 there is not any more what is recorded (its variables, in secrets.env)"
        self.assertIn(words, self.said["service", "6"])
        self.assertEqual(self.json(API, "/core/")["secret"], hashlib.sha256(SECRET.encode()).hexdigest())

        # A machine that was made anew has nothing: all of it is named, and made again where it was.
        self.on("host-a", "pkill -KILL -u deploy -f 'runsv|svlogd|nginx: |node'; while pgrep -u deploy node >/dev/null; do sleep 0.05; done; rm -rf /srv/orders/*", "root")
        self.resolve()
        self.assertEqual((self.lost, self.anew), ({"6": ["port", "variables", "release"], "8": ["port", "release"]}, True))
        recorded = dict(self.recorded)
        self.apply()
        self.assertEqual((self.recorded, self.lost), (recorded, {"6": ["port", "variables", "release"], "8": ["port", "release"]}))
        self.assertEqual(self.json(API, "/core/")["secret"], hashlib.sha256(SECRET.encode()).hexdigest())
        self.resolve()
        self.assertEqual(self.lost, {})

        # The dispatcher takes the route first, and then the service.
        removed = self.services.pop("8")
        self.route()
        self.assertEqual(self.get(removed["domain"], "/docs/"), (404, "this domain is not known here\n"))
        self.assertNotIn(removed["domain"], self.on("host-a", "cat /srv/orders/3+production/proxy/hosts"))
        for _time in range(2):
            self.remove("8", removed["host"])
            self.assertEqual(self.on("host-a", "cd /srv/orders/3+production && ls services supervise").split(), ["services:", "6", "supervise:", "6"])
        self.assertEqual(self.opens(self.address, 20001), False)
        self.assertEqual(self.json(API, "/core/")["version"], "1.0")


if __name__ == "__main__":
    unittest.main()
