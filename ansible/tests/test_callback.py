"""The callback plugin: what it reports, and that a slow, dead or unknown dispatcher changes nothing about a run."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest

from tests.support import JOB, ROOT, FakeApi, certificate, load

try:
    from ansible import release as ansible  # noqa: F401  (a folder named ansible is importable, too)
except ImportError:
    raise unittest.SkipTest("needs ansible-core: run tests/run") from None

callback = load(ROOT / "plugins" / "callback" / "lockstep.py")

PLAYBOOK = """
- name: First play
  hosts: all
  gather_facts: false
  tasks:
    - name: Say
      ansible.builtin.debug: {msg: hello}
    - name: Change
      ansible.builtin.command: "true"
    - name: Skip
      ansible.builtin.command: "true"
      when: false
    - name: Outputs
      ansible.builtin.set_stats:
        data: {list: ["{{ inventory_hostname }}"]}
      when: inventory_hostname != 'bad'
    - name: Output of the run
      ansible.builtin.set_stats:
        data: {version: "1.2"}
        aggregate: false
    - name: Outputs of a host
      ansible.builtin.set_stats:
        data: {url: "https://{{ inventory_hostname }}/"}
        per_host: true
    - name: Hidden outputs
      ansible.builtin.set_stats:
        data: {password: hidden-one}
      no_log: true
    - name: Ignored
      ansible.builtin.command: "false"
      ignore_errors: true
    - name: Rescued
      block:
        - name: Fails and is rescued
          ansible.builtin.command: "false"
      rescue:
        - name: Rescue
          ansible.builtin.debug: {msg: rescued}
    - name: Fails with a hidden reason
      ansible.builtin.fail: {msg: hidden-two}
      no_log: true
      when: inventory_hostname == 'secretive'
    - name: Fails with a reason
      ansible.builtin.command: "sh -c 'echo the-reason >&2; exit 3'"
      when: inventory_hostname == 'bad'
    - name: Fails in a loop
      ansible.builtin.fail: {msg: "item {{ item }}"}
      loop: [1, 2]
      when: inventory_hostname == 'loop'
- name: Second play
  hosts: good
  gather_facts: false
  tasks:
    - name: Last
      ansible.builtin.debug: {msg: bye}
"""
INVENTORY = "all: {hosts: {good: , bad: , secretive: , loop: }, vars: {ansible_connection: local}}\n"
QUICK = """
- hosts: localhost
  connection: local
  gather_facts: false
  tasks: [{name: "Say {{ item }}", debug: {msg: x}, loop: [1, 2, 3]}, {name: Out, set_stats: {data: {done: true}}}]
"""


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        certificate(self.folder)
        (self.folder / "token").write_text("the-token\n")
        (self.folder / "report.json").touch()

    def play(self, playbook, url, inventory="localhost,"):
        """Runs a real playbook. Returns (exit code, output, seconds)."""
        (self.folder / "play.yml").write_text(playbook)
        environ = {
            **os.environ,
            "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
            "ANSIBLE_HOME": str(self.folder / "home"),
            "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
            "LOCKSTEP_URL": url,
            "LOCKSTEP_JOB_ID": JOB,
            "LOCKSTEP_RUN_DIR": str(self.folder),
        }
        began = time.monotonic()
        command = [shutil.which("ansible-playbook"), "-i", str(inventory), str(self.folder / "play.yml")]
        done = subprocess.run(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        return done.returncode, done.stdout, time.monotonic() - began

    def reporter(self, url):
        return callback.Reporter(url, JOB, "the-token", str(self.folder / "ca.crt"))


class WholeRun(Case):
    def test_everything_is_reported(self):
        inventory = self.folder / "hosts.yml"
        inventory.write_text(INVENTORY)
        with FakeApi(self.folder) as api:
            code, output, _seconds = self.play(PLAYBOOK, api.url, inventory)
        self.assertEqual(code, 2, output)
        self.assertNotIn("WARNING", output)
        self.assertEqual((self.folder / "report.json").read_bytes(), b"", "it was heard")
        path, headers, last, _size = api.requests[-1]
        self.assertEqual(path, f"/api/v1/jobs/{JOB}/progress")
        self.assertEqual(headers["Authorization"], "Bearer the-token")

        self.assertEqual((last["play"], last["task"]), ("Second play", "Last"))
        # Each task that was begun counts once, however many hosts it had.
        self.assertEqual(last["tasks_done"], output.count("\nTASK ["))
        counts = {"unreachable": 0, "skipped": 4, "rescued": 1, "ignored": 1, "changed": 2}
        self.assertEqual(last["recap"]["good"], {**counts, "ok": 9, "failed": 0})
        self.assertEqual({host: entry["failed"] for host, entry in last["recap"].items()}, {"good": 0, "bad": 1, "secretive": 1, "loop": 1})
        for host, entry in last["recap"].items():
            line = next(line for line in output.splitlines() if line.startswith(host + " "))
            for name, number in entry.items():
                self.assertIn(f"{name}={number} ", line + " ")

        # No failure of a host that came through: 'good' had one, and it was rescued.
        failures = {item["host"]: item for item in last["failures"] if item["task"] != "Fails and is rescued"}
        self.assertNotIn("good", {item["host"] for item in last["failures"]})
        self.assertEqual(failures["bad"], {"host": "bad", "task": "Fails with a reason", "message": "non-zero return code: the-reason"})
        self.assertEqual(failures["secretive"]["message"], "hidden: the task has no_log")
        self.assertEqual(failures["loop"]["message"], "item 1; item 2")

        outputs = last["outputs"]
        self.assertEqual(outputs["version"], "1.2")
        self.assertEqual(sorted(outputs["list"]), ["good", "loop", "secretive"])
        self.assertEqual(outputs["per_host"]["bad"], {"url": "https://bad/"})
        self.assertNotIn("hidden-", json.dumps(api.bodies))
        self.assertIn("First play", {body["play"] for body in api.bodies})
        done = [body["tasks_done"] for body in api.bodies]
        self.assertEqual(done, sorted(done))

    def test_without_a_dispatcher_it_is_silent(self):
        code, output, _seconds = self.play(QUICK, "")
        self.assertEqual(code, 0, output)
        self.assertNotIn("WARNING", output)

    def test_wrong_set_up_is_a_warning(self):
        for url in ("http://127.0.0.1:1", "https://"):
            code, output, _seconds = self.play(QUICK, url)
            self.assertEqual(code, 0, output)
            self.assertIn("progress is not reported", output)
        (self.folder / "token").unlink()
        code, output, _seconds = self.play(QUICK, "https://127.0.0.1:1")
        self.assertEqual(code, 0, output)


class Trouble(Case):
    """Each kind of dispatcher that does not answer costs at most the flush at the end."""

    alone = None  # seconds of the run that reports to nobody

    def costs(self, url):
        if Trouble.alone is None:
            Trouble.alone = self.play(QUICK, "")[2]
        code, output, seconds = self.play(QUICK, url)
        self.assertEqual(code, 0, output)
        self.assertNotIn("Traceback", output)
        most = callback.FLUSH + 3
        if seconds >= Trouble.alone + most:  # the machine may have become busier since that was measured
            Trouble.alone = max(Trouble.alone, self.play(QUICK, "")[2])
        self.assertLess(seconds, Trouble.alone + most)
        # What it could not say is left where the dispatcher looks.
        left = json.loads((self.folder / "report.json").read_bytes())
        self.assertEqual((left["tasks_done"], left["outputs"]), (2, {"done": True}))

    def test_nobody_listens(self):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.costs(f"https://127.0.0.1:{port}")

    def test_accepts_and_says_nothing(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(50)
            self.costs(f"https://127.0.0.1:{silent.getsockname()[1]}")

    def test_slow_answers(self):
        release = threading.Event()
        with FakeApi(self.folder, lambda path, body: (release.wait(60), (204, {}, None))[1]) as api:
            self.costs(api.url)
            release.set()

    def test_refuses_everything(self):
        for status in (401, 503):
            with self.subTest(status), FakeApi(self.folder, lambda path, body, status=status: (status, {}, {})) as api:
                self.costs(api.url)

    def test_certificate_of_somebody_else(self):
        other = self.folder / "other"
        other.mkdir()
        certificate(other)
        with FakeApi(other) as api:
            self.costs(api.url)
            self.assertEqual(api.requests, [])


class Posting(Case):
    def test_latest_wins_and_at_most_five_a_second(self):
        with FakeApi(self.folder) as api:
            reporter = self.reporter(api.url)
            began = time.monotonic()
            number = 0
            while time.monotonic() - began < 2:
                number += 1
                reporter.offer({"tasks_done": number})
                time.sleep(0.001)
            reporter.flush()
            seconds = time.monotonic() - began
        self.assertGreater(number, 200)
        self.assertLessEqual(len(api.requests), seconds / callback.INTERVAL + 1)
        self.assertGreaterEqual(len(api.requests), 4)
        self.assertEqual(api.bodies[-1], {"tasks_done": number})
        self.assertEqual(api.connections, 1, "one connection serves them all")

    def test_offering_never_waits(self):
        with socket.socket() as silent:
            silent.bind(("127.0.0.1", 0))
            silent.listen(50)
            reporter = self.reporter(f"https://127.0.0.1:{silent.getsockname()[1]}")
            began = time.monotonic()
            for number in range(10000):
                reporter.offer({"tasks_done": number})
            self.assertLess(time.monotonic() - began, 1)
            began = time.monotonic()
            reporter.flush()
            self.assertLess(time.monotonic() - began, callback.FLUSH + 0.5)

    def test_comes_back_after_trouble(self):
        answers = [(503, {}, {}), (500, {}, {})]
        with FakeApi(self.folder, lambda path, body: answers.pop() if answers else (204, {}, None)) as api:
            reporter = self.reporter(api.url)
            reporter.offer({"tasks_done": 1})
            api.wait(lambda requests: len(requests) == 3)
        self.assertEqual(api.bodies, [{"tasks_done": 1}] * 3)

    def test_flush_delivers_the_last_state_soon_after_a_failure(self):
        answers = [(503, {}, {})] * 2
        with FakeApi(self.folder, lambda path, body: answers.pop() if answers else (204, {}, None)) as api:
            reporter = self.reporter(api.url)
            reporter.offer({"tasks_done": 1})
            reporter.offer({"tasks_done": 2})
            reporter.flush()
            self.assertEqual(api.bodies[-1], {"tasks_done": 2})
            self.assertFalse(answers)


class Size(unittest.TestCase):
    def state(self, **fields):
        state = callback.State()
        for name, value in fields.items():
            setattr(state, name, value)
        return state

    def encoded(self, state):
        body = callback.encode(state.report())
        self.assertLessEqual(len(body), callback.LARGEST_BODY)
        return json.loads(body)

    def test_many_long_failures(self):
        state = callback.State()
        for number in range(1000):
            state.count("h%d" % number, "failed")
            state.failure("h%d" % number, "t" * 1000, {"msg": "é" * 100000})
        body = self.encoded(state)
        self.assertTrue(body["failures"])
        self.assertTrue(body["recap"])

    def test_large_outputs_give_way(self):
        state = callback.State()
        state.add_outputs("h", {"ansible_stats": {"data": {"x": "y" * 100000}}})
        state.failure("h", "t", {"msg": "m"})
        body = self.encoded(state)
        self.assertIn("omitted", body["outputs"])
        self.assertEqual(body["failures"][0]["message"], "m")

    def test_many_hosts(self):
        state = callback.State()
        for number in range(5000):
            state.count("host-%d" % number, "ok")
        state.count("host-7", "failed")
        self.assertEqual(list(self.encoded(state)["recap"]), ["host-7"])

    def test_outputs_that_are_no_json(self):
        state = callback.State()
        state.add_outputs("h", {"ansible_stats": {"data": {"set": {1}, "odd": "\ud800"}}})
        self.assertIn("outputs", self.encoded(state))

    def test_outputs_join_as_ansible_joins_them(self):
        state = callback.State()
        for data in ({"n": 1, "l": [1], "m": {"a": 1}}, {"n": 2, "l": [2], "m": {"b": 2}}):
            state.add_outputs("h", {"ansible_stats": {"data": data, "aggregate": True, "per_host": False}})
        state.add_outputs("h", {"ansible_stats": {"data": {"r": 1}, "aggregate": False}})
        state.add_outputs("h", {"ansible_stats": {"data": {"r": 2}, "aggregate": False}})
        self.assertEqual(state.report()["outputs"], {"n": 3, "l": [1, 2], "m": {"a": 1, "b": 2}, "r": 2})


class Messages(unittest.TestCase):
    def test_a_long_one_keeps_its_beginning_and_its_end(self):
        said = "what is wrong\n" + "a b\n" * 2000 + "and at last"
        lines = callback.message_of({"msg": said}).splitlines()
        self.assertEqual((lines[0], lines[-1]), ("what is wrong", "and at last"))
        self.assertLessEqual(sum(map(len, lines)) + len(lines), callback.LONGEST_MESSAGE + 1)
        # What follows the cut is whole.
        self.assertEqual(set(lines[lines.index("…") + 1 : -1]), {"a b"})
        self.assertEqual(callback.message_of({"msg": "short\nand whole"}), "short\nand whole")


if __name__ == "__main__":
    unittest.main()
