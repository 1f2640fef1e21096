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
        done = self.start(*argv, **changes)
        self.assertEqual(done.returncode, code, done.stderr)
        self.assertIn(words, done.stderr)
        self.assertNotIn("Traceback", done.stderr)


class Refusals(Case):
    def test_actions_and_arguments(self):
        self.refused(64, "known are announce-apps, app-deploy, play")
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


if __name__ == "__main__":
    unittest.main()
