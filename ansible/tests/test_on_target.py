"""Slots and proxy on a real host, without Ansible: processes, signals, and what nginx makes of its configurations.

Runs in the target image as the user who is deployed as: see tests/run.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import unittest
import warnings
from unittest import mock

from tests.support import HOST, ROOT, SLOT, load

ports = load(ROOT / "library" / "lockstep_ports.py")
service = load(ROOT / "library" / "lockstep_service.py")
traffic = load(ROOT / "library" / "lockstep_traffic.py")
HERE = os.environ.get("LOCKSTEP_TEST_TARGET") == "1" or (shutil.which("nginx", path="/usr/sbin") and os.getuid() != 0)
# As the role has it: who writes the pid must not differ from what is tried here.
(PID_LINE,) = re.findall(r"^echo .*\.\./pid.*$", (ROOT / "roles/service/templates/run.j2").read_text(), re.MULTILINE)
SERVE = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(sys.argv[1].encode())
    do_PUT = do_GET
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
"""


def free_ports(count):
    with contextlib.ExitStack() as held:
        return [held.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(count)]


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def alive(pids):
    return [pid for pid in pids if (HOST.stat_of(pid) or "Z")[0] not in "ZX"]


@unittest.skipUnless(HERE, "needs nginx and a user of its own: run tests/run")
class Case(unittest.TestCase):
    def setUp(self):
        # A service outlives the module that has started it, which ends then; here it does not.
        warnings.filterwarnings("ignore", "subprocess .* is still running", ResourceWarning)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "serve.py").write_text(SERVE)
        self.addCleanup(self.stop_all)

    def stop_all(self):
        for file in self.folder.glob("*/*/pid"):
            SLOT.Slot(str(file.parent)).stop()

    def prepare(self, name, slot, command):
        """The folder of a slot in which `command` can be started."""
        folder = self.folder / name / slot
        (folder / "files").mkdir(parents=True, exist_ok=True)
        (folder / "run").write_text(f"#!/bin/sh\ncd '{folder}/files' || exit 1\n{PID_LINE}\n{command}\n")
        (folder / "run").chmod(0o755)
        return str(folder)

    def until(self, condition, what):
        self.assertTrue(HOST.wait(condition, 10), what)


class Slots(Case):
    def test_start_and_remove(self):
        slot = SLOT.Slot(self.prepare("x", "a", "echo began $$; exec sleep 1000"))
        self.assertIsNone(slot.group())
        self.assertTrue(slot.start())
        group = slot.group()
        self.assertFalse(slot.start())
        self.assertEqual(slot.group(), group)
        self.assertEqual(os.stat(slot.path("log")).st_mode & 0o777, 0o600)
        self.until(lambda: str(group) in slot.last_words(), "it has said something")
        os.killpg(group, signal.SIGKILL)
        self.until(lambda: not slot.led(), "it is dead")
        with self.assertRaisesRegex(HOST.Refused, f"does not run any more: began {group}"):
            slot.must_run()
        # Anew, and what the one before has said is kept.
        self.assertTrue(slot.start())
        self.assertIn(f"began {group}", pathlib.Path(slot.path("log.1")).read_text())
        self.assertTrue(slot.remove())
        self.assertFalse(os.path.exists(slot.folder))
        self.assertFalse(slot.remove())

    def test_what_does_not_start_says_why(self):
        slot = SLOT.Slot(self.prepare("x", "a", "exit 1"))
        (self.folder / "x/a/run").write_text("#!/bin/sh\necho no such thing; exit 1\n")
        with self.assertRaisesRegex(HOST.Refused, "did not start: no such thing"):
            slot.start()

    def test_what_a_service_has_started_is_stopped_with_it(self):
        stubborn = "trap '' TERM; echo $$ >../child; while :; do sleep 0.2; done"
        slot = SLOT.Slot(self.prepare("x", "a", f'sh -c "{stubborn}" & exec sleep 1000'.replace("$$", "\\$\\$")))
        child = self.folder / "x/a/child"
        for leader_first in (False, True):
            with self.subTest(leader_first=leader_first), mock.patch.object(SLOT, "STOP_WAIT", 0.5):
                slot.start()
                self.until(lambda: child.exists() and child.read_text().strip(), "the child runs")
                number = child.read_text().strip()
                if leader_first:
                    os.kill(slot.group(), signal.SIGKILL)
                    self.until(lambda: not slot.led(), "the leader is gone")
                    self.assertIsNotNone(slot.group())
                    # What is left would hold the port of the one that is started now.
                    slot.start()
                    self.assertTrue(slot.led())
                slot.stop()
                self.assertIn((HOST.stat_of(number) or "Z")[0], "ZX")
                child.unlink(missing_ok=True)

    def test_a_pid_that_is_somebody_elses(self):
        other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        slot = SLOT.Slot(self.prepare("x", "a", ""))
        for began in ("1", ""):
            (self.folder / "x/a/pid").write_text(f"{other.pid} {began}\n")
            slot.stop()
            self.assertIsNone(slot.group())
        self.assertIsNone(other.poll())


# Serves; what it starts goes into a session of its own, and keeps the pipe of the log.
TAKES_LEAVE = """
import http.server, os, signal, time
def end(*_):
    time.sleep(1)
    open(%r, "w").close()
    os._exit(0)
signal.signal(signal.SIGTERM, end)
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(204)
        self.end_headers()
http.server.HTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""
LEAVES = """
import http.server, os, subprocess
os.makedirs("made/inside")
os.chmod("made", 0o500)
with open("../stray", "w") as file:
    for environ in (None, {}):
        print(subprocess.Popen(["sleep", "1000"], env=environ, start_new_session=True).pid, file=file)
Handler = type("Handler", (http.server.BaseHTTPRequestHandler,), {"do_GET": lambda self: self.send_response(200) or self.end_headers()})
http.server.ThreadingHTTPServer((os.environ["HOST"], int(os.environ["PORT"])), Handler).serve_forever()
"""


class Supervised(Case):
    """Services of orders, with their supervisor."""

    def setUp(self):
        super().setUp()
        self.root = str(self.folder / "shop+production")
        self.service = service.Service(self.root, "stray")
        os.makedirs(self.service.folder)
        self.addCleanup(self.end_supervisor)

    def end_supervisor(self):
        for file in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if file.read_text().split("\0")[:3] == ["runsvdir", "-P", os.path.join(self.root, "supervise")]:
                    # To runsvdir: end, and everything with it.
                    os.kill(int(file.parent.name), signal.SIGHUP)
                    self.assertTrue(HOST.wait(lambda pid=file.parent.name: (HOST.stat_of(pid) or "Z")[0] in "ZX", 20))

    def deploy(self, fence, port, files=None):
        staged = self.service.stage("%s-%d" % ("a" * 40, fence), {}, port)
        for name, text in (files or {"app.py": LEAVES}).items():
            pathlib.Path(staged["files"], name).write_text(text)
        self.service.start("python", staged["release"], port, "/", "digest", 40)
        return None if files else pathlib.Path(self.service.path(staged["release"], "stray")).read_text().split()

    def test_what_a_shell_has_started_has_its_time_to_end(self):
        (port,) = free_ports(1)
        ended = self.folder / "ended"
        files = {"Procfile": "web: python3 app.py\n", "app.py": TAKES_LEAVE % str(ended)}
        self.deploy(1, port, files)
        session = self.service.session()
        # It is gone, and what it has started is told; the next is begun after that.
        os.kill(session, signal.SIGKILL)
        self.until(lambda: ended.exists(), "it takes its leave")
        self.until(lambda: self.service.session() not in (0, session) and listens(port), "it runs again")
        for change in (lambda: self.deploy(2, port, files), self.service.remove):
            ended.unlink()
            change()
            self.assertTrue(ended.exists())
        self.assertFalse(listens(port))

    def test_what_has_left_its_session_ends_with_it(self):
        (port,) = free_ports(1)
        first = self.deploy(1, port)
        self.assertEqual(alive(first), first)
        second = self.deploy(2, port)
        self.assertEqual(alive(first + second), second)
        # What is older than the one before goes, also where the service has made folders read-only.
        third = self.deploy(3, port)
        self.assertEqual(alive(first + second + third), third)
        self.assertEqual(self.service.remove(), {"changed": True})
        self.assertEqual(alive(third), [])
        self.assertFalse(os.path.exists(self.service.folder))

    def test_a_signal_is_for_the_process_that_runs_now(self):
        self.service.write_unit()
        os.mkdir(os.path.join(self.service.unit, "supervise"))
        before, now = (subprocess.Popen(["sleep", "1000"], start_new_session=True) for _time in range(2))
        for one in (before, now):
            self.addCleanup(one.wait)
            self.addCleanup(one.kill)
        noted, running = (pathlib.Path(self.service.unit, *name) for name in (["group"], ["supervise", "pid"]))
        noted.write_text(f"{before.pid} 7\n")
        running.write_text(f"{now.pid}\n")
        for script in ("control/t", "control/k"):
            # Not done: what is left to runsv is the process itself.
            self.assertNotEqual(subprocess.run([f"./{script}"], cwd=self.service.unit).returncode, 0)
        self.assertIsNone(before.poll())
        # Nor is what is noted killed at the end of another, unless it is what was noted: after a reboot its number is anybody's.
        self.assertEqual(subprocess.run(["./finish"], cwd=self.service.unit).returncode, 0)
        self.assertIsNone(before.poll())
        noted.write_text(f"{before.pid} {HOST.stat_of(before.pid)[19]}\n")
        with subprocess.Popen(["./finish"], cwd=self.service.unit) as finish:
            self.assertEqual(before.wait(10), -signal.SIGTERM)
        self.assertEqual(finish.returncode, 0)
        noted.write_text(f"{now.pid} 7\n")
        self.assertEqual(subprocess.run(["./control/t"], cwd=self.service.unit).returncode, 0)
        self.assertEqual(now.wait(10), -signal.SIGTERM)

    def test_what_nobody_supervises_any_more_is_removed(self):
        (port,) = free_ports(1)
        strays, session = self.deploy(1, port), self.service.session()
        for name in ("runsvdir", "runsv"):
            subprocess.run(["pkill", "-KILL", "-x", name], check=True)
        self.assertTrue(listens(port))
        self.assertEqual(self.service.remove(), {"changed": True})
        self.assertFalse(listens(port))
        self.assertEqual(alive([session, *strays]), [])

    def test_what_runs_in_a_folder_that_was_removed_is_ended(self):
        (port,) = free_ports(1)
        first = self.deploy(1, port)
        session = self.service.session()
        service.remove_tree(self.service.folder)
        self.assertTrue(listens(port))
        self.assertEqual(self.service.lost(port, [], "a" * 40), ["port", "release"])
        os.makedirs(self.service.folder)
        second = self.deploy(2, port)
        self.assertEqual(alive([str(session), *first, *second]), second)
        # The same with all that there is of the environment, and one that does not listen to signals.
        self.deploy(3, port, {"app.py": "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LEAVES})
        session = self.service.session()
        service.remove_tree(self.root)
        os.makedirs(self.service.folder)
        third = self.deploy(4, port)
        self.assertEqual(alive([str(session), *third]), third)
        # Its `runsv` lives, and can be told nothing any more.
        service.remove_tree(os.path.join(self.service.unit, "supervise"))
        fourth = self.deploy(5, port)
        self.assertEqual(alive([*third, *fourth]), fourth)
        # Its link is gone, and the `runsv` may be leaving or not.
        os.unlink(self.service.link)
        fifth = self.deploy(6, port)
        self.assertEqual(alive([*fourth, *fifth]), fifth)
        self.assertEqual(self.service.remove(), {"changed": True})

    def test_files_that_are_served_from_a_folder_that_was_removed(self):
        (port,) = free_ports(1)
        fence = {"path": str(self.folder / "fence.json"), "fence": 7, "job": "A"}
        (self.folder / "fence.json").write_text(json.dumps({"fence": 7, "job": "A"}))
        for number in (1, 2):
            asked = [{"service": "stray", "port": port, "ports": [port, port], "taken": []}]
            self.assertEqual(ports.apply(str(self.folder), self.root, "one", asked, fence)["ports"], {"stray": port})
            staged = self.service.stage("%s-%d" % ("a" * 40, number), {}, port)
            pathlib.Path(staged["files"], "index.html").write_text("version %d" % number)
            self.service.start("static", staged["release"], port, "/", "digest", 40)
            self.assertEqual(self.get(port), "version %d" % number)
            if number == 1:
                service.remove_tree(self.service.folder)
                self.assertTrue(listens(port))
        # What is not whole is not what was asked for, also if it answers.
        service.put(self.service.path("secrets.env"), "")
        found = self.service.compare("static", "a" * 40, port, "/", {}, [])
        service.put(self.service.path(staged["release"], "digest"), found["digest"])
        self.assertTrue(self.service.compare("static", "a" * 40, port, "/", {}, [])["same"])
        os.unlink(self.service.path(staged["release"], "start"))
        self.assertFalse(self.service.compare("static", "a" * 40, port, "/", {}, [])["same"])
        self.assertEqual(self.service.remove(), {"changed": True})

    def get(self, port):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            return connection.getresponse().read().decode()

    def test_a_build_that_was_given_up_is_ended_by_the_next_job(self):
        other = subprocess.Popen(["sleep", "1000"], env={"LOCKSTEP_BUILD": self.service.folder + "x", "PATH": "/usr/bin:/bin"})
        self.addCleanup(other.wait)
        self.addCleanup(other.kill)
        for job in (lambda: self.service.stage("%s-1" % ("a" * 40), {}, 20000), self.service.remove):
            build = subprocess.Popen(["sleep", "1000"], env={"LOCKSTEP_BUILD": self.service.folder, "PATH": "/usr/bin:/bin"})
            job()
            self.assertEqual(build.wait(10), -signal.SIGKILL)
        self.assertIsNone(other.poll())
        self.assertFalse(os.path.exists(self.service.folder))

    def test_what_has_left_its_session_has_the_services_port(self):
        (port,) = free_ports(1)
        self.service.write_unit()
        mark = {"LOCKSTEP_UNIT": os.path.realpath(self.service.unit)}
        with contextlib.ExitStack() as ended:
            for environ in ({}, mark):
                serve = [sys.executable, "-c", "import socket, time; s = socket.create_server(('', %d)); time.sleep(1000)" % port]
                one = subprocess.Popen(serve, env=environ, start_new_session=True)
                ended.callback(one.wait)
                ended.callback(one.kill)
                self.until(lambda: listens(port), "it listens")
                asked = [{"service": "stray", "port": port, "ports": [port, port], "taken": []}]
                fence = {"path": str(self.folder / "fence.json"), "fence": 7, "job": "A"}
                (self.folder / "fence.json").write_text(json.dumps({"fence": 7, "job": "A"}))
                if environ:
                    self.assertEqual(ports.apply(str(self.folder), self.root, "one", asked, fence)["ports"], {"stray": port})
                else:
                    with self.assertRaisesRegex(HOST.Refused, "process %d" % one.pid):
                        ports.apply(str(self.folder), self.root, "one", asked, fence)
                one.kill()
                one.wait()

    def test_who_has_its_port_is_named(self):
        with socket.create_server(("0.0.0.0", 0)) as other:
            port = other.getsockname()[1]
            with self.assertRaisesRegex(HOST.Refused, r"port %d is not free: process %d \(python3" % (port, os.getpid())):
                self.deploy(1, port)


class Proxy(Case):
    def setUp(self):
        super().setUp()
        self.root = str(self.folder / "proxy")
        port, test_port, peer_port, *self.ports = free_ports(3 + 4)
        self.settings = {
            "root": self.root, "port": port, "test_port": test_port, "peer_port": peer_port, "split_key": "$remote_addr", "drain": 1,
            "fence_path": str(self.folder / "fence.json"), "fence": 7, "job": "A",
        }  # fmt: skip
        self.take_fence(7, "A")
        self.addCleanup(self.stop_nginx)
        self.nginx = HOST.Nginx(self.settings)

    def stop_nginx(self):
        master = self.nginx.master()
        if master:
            os.kill(master, signal.SIGTERM)
            self.until(lambda: (HOST.stat_of(master) or "Z")[0] in "ZX", "nginx ends")

    def take_fence(self, fence, job):
        pathlib.Path(self.settings["fence_path"]).write_text(json.dumps({"fence": fence, "job": job}))

    def call(self, what, settings=None, **request):
        return traffic.apply({**self.settings, **(settings or {})}, {"change": what, **request})

    def port_of(self, name, slot):
        return self.ports[("x", "y").index(name) * 2 + ("a", "b").index(slot)]

    def start(self, name, slot, version, port=None):
        folder = self.prepare(name, slot, f"exec {sys.executable} '{self.folder}/serve.py' {version} {port or self.port_of(name, slot)}")
        self.call("start", folder=folder)
        self.until(lambda: listens(port or self.port_of(name, slot)), "the service listens")
        return folder

    def deploy(self, version, slot, what="take", name="x", port=None, settings=None, **more):
        folder = self.start(name, slot, version, port)
        return self.call(what, settings, service=name, slot=slot, port=port or self.port_of(name, slot), folder=folder, release=version,
                         version=version, **more)  # fmt: skip

    def ask(self, name="x", method="GET", body=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.settings["port"], timeout=10)
        with contextlib.closing(connection):
            connection.request(method, f"/{name}/", body)
            answer = connection.getresponse()
            content = answer.read().decode()
        return content if answer.status == 200 else answer.status

    def runs(self, slot, name="x"):
        return SLOT.Slot(str(self.folder / name / slot)).led()

    # --- who may stop what

    def test_a_job_that_was_overtaken_stops_nothing(self):
        self.deploy("1", "a")
        retired = self.deploy("2", "b")["retired"]
        self.take_fence(8, "B")
        for what, request in (
            ("drop", {"services": ["x"], "seen": retired}),
            ("drop", {"services": ["x"]}),
            ("remove", {"services": ["x"], "release": "2"}),
            ("renew", {"service": "x", "slot": "a", "folder": str(self.folder / "x/a")}),
            ("start", {"folder": str(self.folder / "x/a")}),
        ):
            with self.subTest(what), self.assertRaisesRegex(HOST.Refused, "no longer that of this host"):
                self.call(what, **request)
            self.assertTrue(self.runs("a") and self.runs("b"))
        self.assertEqual(self.ask(), "2")

    def test_what_is_live_is_not_stopped_by_who_has_seen_it_retired(self):
        self.deploy("1", "a")
        seen = self.deploy("2", "b")["retired"]
        self.assertEqual(seen["x"]["slot"], "a")
        # Meanwhile somebody else, whose fence is another one's, has put it back.
        self.call("back", services=["x"], release="2")
        self.assertEqual(self.ask(), "1")
        self.call("drop", services=["x"], seen=seen)
        self.assertTrue(self.runs("a") and self.runs("b"))
        with self.assertRaisesRegex(HOST.Refused, "slot a of x is live"):
            self.call("renew", service="x", slot="a", folder=str(self.folder / "x/a"))
        # What is live is known, so it is not swept; and a release that is not live cannot remove it.
        self.call("remove", services=["x"], release="2", sweep=[str(self.folder / "x/a"), str(self.folder / "x/b")])
        self.assertTrue(self.runs("a"))
        self.assertFalse((self.folder / "x/b").exists())
        self.assertEqual(self.ask(), "1")

    def test_a_drop_takes_what_is_the_releases_own_or_retired(self):
        self.deploy("1", "a")
        self.deploy("2", "b", "offer")
        self.call("drop", services=["x"], release="3")
        self.assertTrue(self.runs("b"))
        self.call("drop", services=["x"], release="2")
        self.assertFalse(self.runs("b"))
        self.deploy("3", "b")
        self.assertTrue(self.runs("a"))
        self.call("drop", services=["x"], release="3")
        self.assertFalse((self.folder / "x/a").exists())
        self.assertEqual(self.ask(), "3")

    def test_what_died_before_it_was_offered_is_swept(self):
        folder = self.start("x", "a", "1")
        self.call("drop", services=["x"], release="1")
        self.assertTrue(self.runs("a"))
        self.call("drop", services=["x"], release="1", sweep=[folder])
        self.assertFalse(os.path.exists(folder))

    def test_renew_and_remove(self):
        self.deploy("1", "a")
        folder = self.deploy("2", "b", "offer")["other"]["folder"]
        self.assertIsNone(self.call("renew", service="x", slot="b", folder=folder)["other"])
        self.assertEqual(os.listdir(folder), ["files"])
        self.call("remove", services=["x"], release="1")
        self.assertFalse((self.folder / "x/a").exists())
        self.assertEqual(self.ask(), 503)

    # --- ports

    def test_a_port_that_another_holds_is_refused(self):
        self.deploy("1", "a")
        with self.assertRaisesRegex(HOST.Refused, "port %d of y is that of x" % self.port_of("x", "a")):
            self.deploy("1", "a", name="y", port=self.port_of("x", "a"))
        with self.assertRaisesRegex(HOST.Refused, "is that of its other slot"):
            self.deploy("2", "b", port=self.port_of("x", "a"))
        with self.assertRaisesRegex(HOST.Refused, "is the proxy's own"):
            self.deploy("2", "b", port=self.settings["port"])
        self.assertEqual(self.ask(), "1")

    def test_what_has_died_is_not_offered(self):
        folder = self.start("x", "a", "1")
        os.killpg(SLOT.Slot(folder).group(), signal.SIGKILL)
        self.until(lambda: not self.runs("a"), "it is dead")
        for what in ("take", "offer", "show"):
            with self.assertRaisesRegex(HOST.Refused, "does not run any more"):
                self.call(what, service="x", slot="a", port=self.port_of("x", "a"), folder=folder, release="1", version="1")

    # --- nginx

    def test_many_services_in_one_bracket(self):
        state, names = {}, ["service-%02d" % number for number in range(40)]
        for number, name in enumerate(names):
            for slot, what in (("a", "take"), ("b", "offer")):
                port = 20000 + number * 2 + (slot == "b")
                state = traffic.change(state, {"change": what, "service": name, "services": names, "slot": slot, "port": port, "share": 10,
                    "folder": f"/srv/services/a-host.example.org/{name}/{slot}", "release": "01GZEC5GJHFKWMK4Z5A1NM8R" + slot, "version": "1.0"})  # fmt: skip
        text = traffic.render(state, self.settings)
        self.assertGreater(len(text.split("\n# settings")[0]), 10 * traffic.LINE)
        self.assertLessEqual(max(len(line) for line in text.split("\n") if line.startswith("#")), traffic.LINE)
        self.assertEqual(traffic.parse(text), state)
        self.nginx.test(text)
        self.nginx.use(text, None)

    def test_a_body_of_any_size(self):
        self.deploy("1", "a")
        self.assertEqual(self.ask(method="PUT", body=b"x" * 3_000_000), "1")

    def test_a_switch_that_was_killed_on_paper_is_done_by_its_repetition(self):
        self.deploy("1", "a")
        self.deploy("2", "b", "offer")
        switch, real = {"services": ["x"], "release": "2"}, HOST.put

        def killed(path, *arguments):
            real(path, *arguments)
            if path == self.nginx.file:
                raise KeyboardInterrupt

        with mock.patch.object(HOST, "put", killed), self.assertRaises(KeyboardInterrupt):
            self.call("switch", **switch)
        self.assertEqual(self.ask(), "1")
        self.assertEqual(traffic.parse(pathlib.Path(self.nginx.file).read_text())["x"]["live"]["version"], "2")
        # What changes nothing on paper makes it true as well, by its own settings.
        with self.assertRaisesRegex(HOST.Refused, "does not accept"):
            self.call("drop", {"port": 99999}, services=["y"])
        self.call("start", folder=str(self.folder / "x/a"))
        self.assertEqual(self.ask(), "2")
        with mock.patch.object(HOST, "put", killed), self.assertRaises(KeyboardInterrupt):
            self.call("back", **switch)
        self.assertEqual(self.ask(), "2")
        self.call("switch", services=["x"], release="1")
        self.assertEqual(self.ask(), "1")
        self.assertFalse(self.nginx.due())

    def test_what_is_retired_on_paper_alone_is_not_stopped_before_that_is_true(self):
        self.deploy("1", "a")
        self.deploy("2", "b", "offer")
        with mock.patch.object(HOST.Nginx, "take", side_effect=KeyboardInterrupt), self.assertRaises(KeyboardInterrupt):
            self.call("switch", services=["x"], release="2")
        self.assertEqual(self.ask(), "1")
        seen, answers, real = self.call("show", service="x")["retired"], [], SLOT.Slot.remove

        def remove(slot):
            answers.append(self.ask())
            return real(slot)

        with mock.patch.object(SLOT.Slot, "remove", remove):
            self.call("drop", services=["x"], seen=seen)
        self.assertEqual(answers, ["2"])
        self.assertFalse(self.runs("a"))

    def test_a_change_that_was_killed_while_requests_were_drained(self):
        self.deploy("1", "a")
        self.deploy("2", "b", "offer")
        before = self.nginx.workers(self.nginx.master())
        # A request under way, whose worker stays for `drain` seconds.
        with socket.create_connection(("127.0.0.1", self.settings["port"])) as under_way:
            under_way.sendall(b"PUT /x/ HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
            waits, real = [], HOST.wait

            def killed(condition, seconds):
                waits.append(seconds)
                if len(waits) == 2:
                    raise KeyboardInterrupt
                return real(condition, seconds)

            with mock.patch.object(HOST, "wait", killed), self.assertRaises(KeyboardInterrupt):
                self.call("switch", services=["x"], release="2")
            self.assertTrue(self.nginx.due())
            self.call("switch", services=["x"], release="2")
        self.assertFalse(self.nginx.due())
        self.assertFalse(self.nginx.workers(self.nginx.master()) & before)

    def test_what_nginx_takes_too_late_is_put_back(self):
        self.deploy("1", "a")
        self.deploy("2", "b", "offer")
        text, waits, real = pathlib.Path(self.nginx.file).read_text(), [], HOST.wait

        def late(condition, seconds):
            waits.append(real(condition, seconds))
            return waits[-1] and len(waits) > 1

        with mock.patch.object(HOST, "wait", late), self.assertRaisesRegex(HOST.Refused, "did not take"):
            self.call("switch", services=["x"], release="2")
        self.assertEqual(pathlib.Path(self.nginx.file).read_text(), text)
        self.assertEqual(self.ask(), "1")
        self.assertFalse(self.nginx.due())

    def test_what_is_not_accepted_leaves_everything(self):
        self.deploy("1", "a")
        before, workers = pathlib.Path(self.nginx.file).read_text(), self.nginx.workers(self.nginx.master())
        with self.assertRaisesRegex(HOST.Refused, "does not accept"):
            self.nginx.use("rubbish;\n", before)
        self.assertEqual(pathlib.Path(self.nginx.file).read_text(), before)
        self.assertEqual(self.nginx.workers(self.nginx.master()), workers)
        self.assertFalse(self.nginx.due())

    def test_who_has_its_port_is_named(self):
        with socket.create_server(("0.0.0.0", 0)) as other:
            port = other.getsockname()[1]
            said = r"port %d: process %d \(python3" % (port, os.getpid())
            with self.assertRaisesRegex(HOST.Refused, "did not start.*(\n.*)*" + said):
                self.deploy("1", "a", settings={"port": port})
            self.deploy("1", "a")
            with mock.patch.object(HOST, "START_WAIT", 4), self.assertRaisesRegex(HOST.Refused, "did not take.*(\n.*)*" + said):
                self.deploy("2", "b", settings={"port": port})
            self.assertEqual(self.ask(), "1")

    def test_of_two_steps_the_first_is_taken_back_when_the_second_is_refused(self):
        self.deploy("1", "a")
        before = pathlib.Path(self.nginx.file).read_text()
        first = before.replace("default_type text/plain", "default_type text/html")
        with self.assertRaisesRegex(HOST.Refused, "does not accept"):
            traffic.go(self.nginx, [first, "rubbish;\n"], before)
        self.assertEqual(pathlib.Path(self.nginx.file).read_text(), before)
        # What runs already is not told again.
        workers = self.nginx.workers(self.nginx.master())
        self.assertFalse(traffic.go(self.nginx, [before], before))
        self.assertEqual(self.nginx.workers(self.nginx.master()), workers)

    def test_what_puts_back_or_takes_away_keeps_the_settings(self):
        self.deploy("1", "a")
        self.deploy("2", "b")
        broken = {"port": 99999, "split_key": "$nothing_that_nginx_knows", "drain": 3}
        with self.assertRaisesRegex(HOST.Refused, "does not accept"):
            self.deploy("3", "b", "offer", name="y", settings=broken)
        for what, request, live in (
            ("back", {"services": ["x"], "release": "2"}, "1"),
            ("drop", {"services": ["x"], "release": "2"}, "1"),
            ("remove", {"services": ["x"], "release": "1"}, 503),
        ):
            self.assertTrue(self.call(what, broken, **request)["changed"])
            self.assertEqual(self.ask(), live)

    def test_a_proxy_that_the_host_has_started_is_known(self):
        self.deploy("1", "a")
        self.stop_nginx()
        # As the user's crontab may have it.
        subprocess.run([self.nginx.program, "-p", self.root + "/", "-c", "nginx.conf"], check=True)
        master = self.nginx.master()
        self.assertIsNotNone(master)
        self.deploy("2", "b", "offer")
        self.call("switch", services=["x"], release="2")
        self.assertEqual(self.ask(), "2")
        self.assertEqual(self.nginx.master(), master)

    def test_a_proxy_that_does_not_run_is_started(self):
        self.deploy("1", "a")
        self.stop_nginx()
        self.call("show")
        self.assertEqual(self.ask(), "1")


if __name__ == "__main__":
    unittest.main()
