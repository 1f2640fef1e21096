"""The entrypoint's checks and exit codes. What it becomes is a stand-in that prints how it was called."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from tests.support import JOB, ROOT, load

entrypoint = load(ROOT / "bin" / "entrypoint.py")

STAND_IN = """#!%s
import json, os, sys
file = sys.argv[sys.argv.index("-e") + 1]
print(json.dumps({"argv": sys.argv[1:], "environ": dict(os.environ), "vars": json.load(open(file[1:])), "mode": os.stat(file[1:]).st_mode & 0o777}))
sys.exit(int(os.environ.get("STAND_IN_EXIT", "0")))
""" % sys.executable


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.run_folder = self.folder / "run"
        self.run_folder.mkdir()
        for name, text in (("vars.json", "{}"), ("token", "t"), ("ca.crt", "c")):
            (self.run_folder / name).write_text(text)
        stand_in = self.folder / "ansible-playbook"
        stand_in.write_text(STAND_IN)
        stand_in.chmod(0o755)
        self.environ = {
            "PATH": f"{self.folder}:{os.environ['PATH']}",
            "TMPDIR": str(self.folder),
            "HOME": "/",
            "LOCKSTEP_RUN_DIR": str(self.run_folder),
            "LOCKSTEP_FENCE": "7",
            "LOCKSTEP_URL": "https://localhost",
        }

    def start(self, *argv, **changes):
        environ = {name: value for name, value in {**self.environ, **changes}.items() if value is not None}
        command = [sys.executable, str(ROOT / "bin" / "entrypoint.py"), *argv]
        return subprocess.run(command, env=environ, capture_output=True, text=True)

    def refused(self, code, words, *argv, **changes):
        report = self.run_folder / "report.json"
        report.write_text("")
        done = self.start(*argv, **changes)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(words, done.stderr)
        # What an order is told.
        (failure,) = json.loads(report.read_text())["failures"]
        self.assertEqual(done.stderr, f"lockstep: {failure['message']}\n")
        self.assertNotIn("Traceback", done.stderr)


class Refusals(Case):
    def test_actions_and_arguments(self):
        self.refused(64, "known are announce-apps, app-deploy, order, play")
        self.refused(64, "unknown action 'reboot'", "reboot")
        self.refused(64, "usage: app-deploy", "app-deploy", "app-one.epfl.ch")
        self.refused(64, "usage: app-deploy", "app-deploy", "app-one.epfl.ch", JOB, "--check")
        self.refused(64, "usage: announce-apps", "announce-apps", "--print")
        self.refused(64, "usage: play", "play", "app-one.epfl.ch", JOB)

    def test_names_that_are_paths_or_options(self):
        for name in ("../x", "-i", "a b", "", ".", "..", ".hidden", "a/b", "a\nb", "é", "a" * 300):
            with self.subTest(name):
                self.refused(64, "inventory", "app-deploy", name, JOB)
                self.refused(64, "playbook", "play", name, "app-one.epfl.ch", JOB)
        for job_id in ("1", "../x", JOB.lower(), JOB + "0", "8" + JOB[1:], "-" + JOB[1:]):
            with self.subTest(job_id):
                self.refused(64, "job_id", "app-deploy", "app-one.epfl.ch", job_id)

    def test_unknown_inventory(self):
        self.refused(66, "'app-zero.epfl.ch' is not in", "app-deploy", "app-zero.epfl.ch", JOB)

    def test_unknown_playbook(self):
        self.refused(66, "'app-zero' is not in", "play", "app-zero", "app-one.epfl.ch", JOB)

    def test_missing_files(self):
        for name in ("vars.json", "token", "ca.crt"):
            text = (self.run_folder / name).read_text()
            (self.run_folder / name).unlink()
            with self.subTest(name):
                self.refused(78, f"{name} cannot be read", "app-deploy", "app-one.epfl.ch", JOB)
            (self.run_folder / name).write_text(text)
        (self.run_folder / "token").unlink()
        self.refused(78, "token cannot be read", "announce-apps")

    def test_environment(self):
        deploy = ("app-deploy", "app-one.epfl.ch", JOB)
        self.refused(78, "LOCKSTEP_FENCE is missing", *deploy, LOCKSTEP_FENCE=None)
        for fence in ("0", "-1", "07", "1.5", "x"):
            self.refused(78, "must be a number above 0", *deploy, LOCKSTEP_FENCE=fence)
        self.refused(78, "LOCKSTEP_URL is missing", *deploy, LOCKSTEP_URL=None)
        self.refused(78, "LOCKSTEP_INVENTORY is", *deploy, LOCKSTEP_INVENTORY="app-two.epfl.ch")
        self.refused(78, "LOCKSTEP_JOB_ID is", *deploy, LOCKSTEP_JOB_ID="01GZEC5GJHFKWMK4Z5A1NM9DPG")

    def test_vars(self):
        deploy = ("app-deploy", "app-one.epfl.ch", JOB)
        for text, words in (
            ("[1]", "holds a list"),
            ("{", "not JSON"),
            ("", "not JSON"),
            ('{"ansible_host": "x"}', "Ansible's own"),
            ('{"a-b": 1}', "not the name of a variable"),
            ('{"a": {"__ansible_vault": "x"}}', "not allowed"),
            ('{"a": {"{{ x }}": 1}}', "not allowed"),
        ):
            (self.run_folder / "vars.json").write_text(text)
            with self.subTest(text):
                self.refused(65, words, *deploy)

    def test_no_temporary_folder(self):
        entrypoint.RUN = str(self.run_folder)
        entrypoint.tempfile.tempdir = str(self.folder / "missing")
        self.addCleanup(setattr, entrypoint.tempfile, "tempdir", None)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            code = entrypoint.main(["app-deploy", "app-one.epfl.ch", JOB], dict(self.environ))
        self.assertEqual(code, 73)
        self.assertIn("tmpfs", errors.getvalue())


class Runs(Case):
    def called(self, **changes):
        done = self.start("app-deploy", "app-one.epfl.ch", JOB, **changes)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_becomes_ansible_playbook(self):
        called = self.called()
        self.assertEqual(called["argv"][:2], ["-i", str(ROOT / "inventories" / "app-one.epfl.ch")])
        self.assertEqual(called["argv"][-1], str(ROOT / "playbooks" / "app-deploy.yml"))
        self.assertEqual(called["environ"]["LOCKSTEP_JOB_ID"], JOB)
        self.assertEqual(called["environ"]["HOME"], "/home/runner")
        self.assertEqual(called["environ"]["PYTHONUNBUFFERED"], "1")

    def test_play_becomes_the_same_with_another_playbook(self):
        done = self.start("play", "app-deploy", "app-one.epfl.ch", JOB)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["argv"][-1], str(ROOT / "playbooks" / "app-deploy.yml"))

    def test_exit_code_is_ansibles(self):
        self.assertEqual(self.start("app-deploy", "app-one.epfl.ch", JOB, STAND_IN_EXIT="4").returncode, 4)

    def test_vars_reach_ansible_as_literals_and_never_argv(self):
        values = {"version": "1.2", "n": 3, "list": ["{{ x }}", None], "map": {"k": "s3cret"},
                  "lockstep_release": {"share": 10, "previous": None, "services": {"a-b.c": {"version": "{{ x }}"}}}}  # fmt: skip
        (self.run_folder / "vars.json").write_text(json.dumps(values))
        called = self.called()
        unsafe = lambda text: {"__ansible_unsafe": text}  # noqa: E731
        self.assertEqual(called["vars"], {"version": unsafe("1.2"), "n": 3, "list": [unsafe("{{ x }}"), None], "map": {"k": unsafe("s3cret")},
            "lockstep_release": {"share": 10, "previous": None, "services": {"a-b.c": {"version": unsafe("{{ x }}")}}}})  # fmt: skip
        self.assertEqual(called["mode"], 0o600)
        self.assertNotIn("s3cret", json.dumps(called["argv"]))


HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIDoN"


def an_order(task="domains", **changes):
    hosts = [
        {"name": "host-a", "address": "10.1.2.3", "port": 22, "user": "deploy", "host_key": HOST_KEY + " who@where", "key": "id_ed25519"},
        {"name": "host-b", "address": "10.1.2.4", "port": 2222, "user": "deploy", "host_key": HOST_KEY, "key": None},
        {"name": "host-c", "address": "Host-C.example", "port": 22, "user": "deploy", "host_key": None, "key": None},
    ]
    return {"environment": "3", "mode": "production", "order": 7, "action": "update", "task": task, "hosts": hosts,
            "proxy": {"host": "host-a", "port": 8080}, **changes}  # fmt: skip


class Orders(Case):
    def setUp(self):
        super().setUp()
        (self.folder / ".ssh").mkdir()
        (self.folder / ".ssh" / "id_ed25519").write_text("key")
        self.environ["HOME"] = str(self.folder)

    def give(self, told):
        (self.run_folder / "vars.json").write_text(json.dumps({"lockstep_order": told}))

    def called(self, *argv):
        done = self.start("order", *argv, JOB)
        self.assertEqual(done.returncode, 0, done.stderr)
        called = json.loads(done.stdout)
        inventory = pathlib.Path(called["argv"][called["argv"].index("-i") + 1])
        return called, json.loads(inventory.read_text())["all"]["children"], (inventory.parent / "known_hosts").read_text()

    def test_inventory_and_known_hosts_are_made(self):
        self.give(an_order(repositories=[{"url": "{{ x }}"}]))
        called, groups, known_hosts = self.called("domains", "3/environment")
        self.assertEqual(called["argv"][-1], str(ROOT / "playbooks" / "order-domains.yml"))
        self.assertEqual(called["environ"]["LOCKSTEP_INVENTORY"], "3/environment")
        self.assertEqual(called["vars"]["lockstep_order"]["repositories"], [{"url": {"__ansible_unsafe": "{{ x }}"}}])
        self.assertEqual(known_hosts, f"10.1.2.3 {HOST_KEY}\n[10.1.2.4]:2222 {HOST_KEY}\n")
        self.assertEqual(groups["proxy"], {"hosts": {"host-a": {}}})
        hosts = groups["hosts"]["hosts"]
        self.assertEqual(hosts["host-a"]["ansible_ssh_private_key_file"], str(self.folder / ".ssh" / "id_ed25519"))
        self.assertIn("IdentitiesOnly=yes", hosts["host-a"]["ansible_ssh_common_args"])
        self.assertIn("/known_hosts -o GlobalKnownHostsFile=/dev/null", hosts["host-b"]["ansible_ssh_common_args"])
        self.assertNotIn("Identit", hosts["host-b"]["ansible_ssh_common_args"])
        self.assertEqual(hosts["host-c"], {"ansible_host": "Host-C.example", "ansible_port": 22, "ansible_user": "deploy",
                                           "ansible_ssh_common_args": "-o AddressFamily=inet"})  # fmt: skip

    def test_what_the_operator_tells_ssh_counts_too_but_not_instead(self):
        given = [an_order(), "domains", "3", "environment", "/run/x", str(self.folder)]
        hosts, _known_hosts = entrypoint.order_inventory({"lockstep_order": given[0]}, *given[1:], "-o ProxyJump=bastion")
        said = hosts["all"]["children"]["hosts"]["hosts"]["host-c"]["ansible_ssh_common_args"]
        self.assertEqual(said, "-o AddressFamily=inet -o ProxyJump=bastion")

    def test_a_service_job_has_the_hosts_that_it_was_given(self):
        host_b = an_order()["hosts"][1:2]
        self.give(an_order("service", hosts=host_b, service={"id": "6", "operation": "remove", "host": "host-b"}))
        _called, groups, _known_hosts = self.called("service", "3/6")
        self.assertEqual((list(groups["hosts"]["hosts"]), groups["proxy"]), (["host-b"], {"hosts": {}}))
        self.refused(65, "service.id '6' is not valid", "order", "service", "3/7", JOB)

    def test_arguments(self):
        self.give(an_order())
        self.refused(64, "usage: order", "order", "domains", "3/environment")
        for name in ("3", "3/", "/3", "3/6/7", "../6", "3/..", "-3/6", "3/a b", "3/{{", "3/6\n"):
            with self.subTest(name):
                self.refused(64, "is not <environment>/<service>", "order", "domains", name, JOB)
        self.refused(64, "task", "order", "../app-deploy", "3/6", JOB)
        self.refused(66, "'order-nothing' is not in", "order", "nothing", "3/6", JOB)
        self.refused(64, "job_id", "order", "domains", "3/6", "1")
        self.refused(78, "LOCKSTEP_INVENTORY is", "order", "domains", "3/6", JOB, LOCKSTEP_INVENTORY="3/7")

    def test_each_value_is_checked(self):
        def changed(path, value):
            told = an_order()
            place = told
            for step in path[:-1]:
                place = place[step]
            place[path[-1]] = value
            return told

        template, run = "{{ lookup('pipe', 'id') }}", ("order", "domains", "3/environment", JOB)
        for path, values in (
            (["environment"], ["4", None, template]),
            (["task"], ["routes", None]),
            (["mode"], ["a/b", "", None, template]),
            (["hosts", 0, "name"], ["a/b", "proxy", "localhost", "host-b", 7, template]),
            (["hosts", 0, "address"], ["-oProxyCommand=id", "a b", "fd00::1", "fe80::1%{{x}}", "", None, template]),
            (["hosts", 0, "port"], [0, 65536, "22", True, None]),
            (["hosts", 0, "user"], ["a b", "-x", "", template]),
            (["hosts", 0, "host_key"], ["ssh-ed25519", "ssh-ed25519 AAAA\nx ssh-ed25519 AAAA", "AAAA", 7, template]),
            (["hosts", 0, "key"], ["../id", "", 7, template]),
            (["proxy", "host"], ["host-z", None, template]),
            (["proxy", "port"], ["8080", 0]),
            (["hosts"], [[]]),
        ):
            for value in values:
                self.give(changed(path, value))
                with self.subTest(path=path, value=value):
                    self.refused(65, "is not valid", *run)
        # A job that gives services their variables concerns their hosts alone; the proxy's need not be one of them.
        self.give({**an_order("variables"), "hosts": an_order()["hosts"][1:2]})
        self.called("variables", "3/environment")
        for told in ({}, {**an_order(), "hosts": [7]}, {**an_order(), "hosts": [{"name": "host-a"}]}, {**an_order(), "proxy": None}, 7):
            self.give(told)
            with self.subTest(told):
                self.refused(65, "lockstep_order", *run)
        (self.run_folder / "vars.json").write_text(json.dumps({"lockstep_order": an_order(), "order_root": "/"}))
        self.refused(65, "lockstep_order alone", *run)
        self.give(changed(["hosts", 0, "key"], "other"))
        self.refused(78, ".ssh/other, which cannot be read", *run)

    def test_other_actions_take_no_inventory_with_a_slash(self):
        self.refused(64, "inventory '3/6' is not valid", "app-deploy", "3/6", JOB)
        self.refused(64, "inventory '3/6' is not valid", "play", "app-deploy", "3/6", JOB)


if __name__ == "__main__":
    unittest.main()
