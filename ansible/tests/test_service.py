"""How a service of each type is built and started, and what its environment is."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest
from unittest import mock

from tests.support import ROOT, TYPE, load

service = load(ROOT / "library" / "lockstep_service.py")
ODD = "a b'c\"d$(id)`id`\\\n{{ x }} ü!#"


class Case(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = folder.name
        self.files = os.path.join(folder.name, "files")
        os.mkdir(self.files)

    def file(self, name, text=""):
        path = pathlib.Path(self.files, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def package(self, **package):
        self.file("package.json", json.dumps(package))


class Node(Case):
    def test_build(self):
        self.assertEqual(TYPE.build_steps("node", self.files), [])
        self.package(devDependencies={"a": "1"})
        self.assertEqual(TYPE.build_steps("node", self.files), [])
        self.package(dependencies={"a": "1"})
        steps = TYPE.build_steps("node", self.files)
        self.assertEqual(steps, [["npm", "ci", "--omit=dev"]])
        self.assertIn("npm", TYPE.needed("node", steps))
        self.assertNotIn("npm", TYPE.needed("node", []))

    def test_start(self):
        with self.assertRaisesRegex(service.Refused, "nor index.js"):
            TYPE.command("node", self.files)
        self.file("index.js")
        self.assertEqual(TYPE.command("node", self.files), "exec node ./index.js")
        self.file("lib/a b.js")
        self.package(main="lib/a b")
        self.assertEqual(TYPE.command("node", self.files), "exec node './lib/a b'")
        self.package(main="lib/a b", scripts={"start": "node it's.js"})
        self.assertEqual(TYPE.command("node", self.files), "exec sh -c 'node it'\"'\"'s.js'")
        self.file("Procfile", "worker: x\nweb:  node web.js --port $PORT \n")
        self.assertEqual(TYPE.command("node", self.files), "exec sh -c 'node web.js --port $PORT'")

    def test_a_package_that_is_none(self):
        for text in ("{", "[]", "7"):
            self.file("package.json", text)
            with self.subTest(text), self.assertRaisesRegex(service.Refused, "package.json"):
                TYPE.build_steps("node", self.files)


class Python(Case):
    def test_build(self):
        for text in (None, "", "# none\n\n"):
            if text is not None:
                self.file("requirements.txt", text)
            self.assertEqual(TYPE.build_steps("python", self.files), [])
        self.file("requirements.txt", "flask  # a comment\n")
        first, second = TYPE.build_steps("python", self.files)
        self.assertEqual((first[:3], second[0]), (["python3", "-m", "venv"], "../venv/bin/pip"))

    def test_start(self):
        with self.assertRaisesRegex(service.Refused, "app.py, nor main.py"):
            TYPE.command("python", self.files)
        for name in ("main.py", "app.py"):
            self.file(name)
            self.assertEqual(TYPE.command("python", self.files), "exec python3 " + name)
        self.file("Procfile", "web: gunicorn app")
        self.assertEqual(TYPE.command("python", self.files), "exec sh -c 'gunicorn app'")


class Fronts(Case):
    def test_angular_is_built(self):
        with self.assertRaisesRegex(service.Refused, "no script `build`"):
            TYPE.build_steps("angular", self.files)
        self.package(scripts={"build": "ng build"})
        self.assertEqual(TYPE.build_steps("angular", self.files), [["npm", "run", "build"]])
        self.package(scripts={"build": "ng build"}, devDependencies={"a": "1"})
        self.assertEqual(TYPE.build_steps("angular", self.files), [["npm", "ci"], ["npm", "run", "build"]])

    def test_what_is_served(self):
        for kind, words in (("angular", "dist"), ("static", "public")):
            with self.assertRaisesRegex(service.Refused, f"no index.html in {words}"):
                TYPE.public_folder(kind, self.files)
        for place in ("dist/app/browser", "dist/app", "dist"):
            self.file(place + "/index.html")
            self.assertEqual(TYPE.public_folder("angular", self.files), place)
        for place in (".", "public"):
            self.file(place + "/index.html")
            self.assertEqual(TYPE.public_folder("static", self.files), place)
        # What the repository has there may lead to the files of another service.
        shutil.move(os.path.join(self.files, "public"), self.files + ".other")
        os.symlink(self.files + ".other", os.path.join(self.files, "public"))
        self.assertEqual(TYPE.public_folder("static", self.files), ".")

    def test_unknown_paths_of_angular_alone_are_answered(self):
        for kind, last in (("angular", "/index.html;"), ("static", "=404;")):
            text = TYPE.nginx_conf(kind, "/r", 20000, ".")
            self.assertIn("try_files $uri $uri/ " + last, text)
            self.assertIn('root "/r/files";', text)


class Environment(Case):
    def test_any_text_reaches_the_process_and_no_command_line(self):
        self.file("Procfile", "web: python3 -c 'import json, os; print(json.dumps(dict(os.environ)))'")
        pathlib.Path(self.root, "environment.env").write_text(service.exports({"ODD": ODD, "PORT": "1", "EMPTY": "", "PATH": "/x"}))
        script = TYPE.start_script("python", self.files, 20001)
        self.assertNotIn("a b", script)
        done = subprocess.run(["sh", "-c", script], stdout=subprocess.PIPE, check=True)
        environ = json.loads(done.stdout)
        self.assertEqual((environ["ODD"], environ["PORT"], environ["HOST"], environ["EMPTY"]), (ODD, "20001", "0.0.0.0", ""))
        self.assertTrue(environ["PATH"].startswith(self.root + "/venv/bin:"))

    def test_what_no_environment_can_hold(self):
        for values in ({"a-b": "x"}, {"": "x"}, {"1": "x"}, {"a\nb": "x"}, {"A": 1}, {"A": None}, {"A": "\0"}):
            with self.subTest(values), self.assertRaises(service.Refused):
                service.exports(values)


class Releases(Case):
    def setUp(self):
        super().setUp()
        self.it = service.Service(self.root, "6")
        os.makedirs(self.it.folder)
        self.names = [f"{commit * 40}-{number}" for commit, number in (("a", 1), ("b", 2), ("c", 3))]

    def stage(self, name):
        return self.it.stage(name, {"A": "x"}, 20001)["release"]

    def test_a_release_has_its_own_copy_of_the_environment(self):
        service.put(self.it.path("secrets.env"), service.exports({"S": "secret"}), 0o600)
        file = pathlib.Path(self.it.path(self.stage(self.names[0]), "environment.env"))
        service.put(self.it.path("secrets.env"), service.exports({"S": "other"}), 0o600)
        self.assertEqual(file.read_text(), "export A=x\nexport S=secret\nexport PORT=20001 HOST=0.0.0.0\n")
        self.assertEqual(file.stat().st_mode & 0o777, 0o600)

    def test_what_never_answered_is_removed_and_never_gone_back_to(self):
        first = self.stage(self.names[0])
        service.switch(self.it.path("current"), first)
        self.assertEqual(self.it.release_of("current"), "")
        service.put(self.it.path(first, "digest"), "x")
        self.assertEqual(self.it.release_of("current"), first)
        self.stage(self.names[1])
        third = self.stage(self.names[2])
        self.assertEqual(sorted(name for name in os.listdir(self.it.folder) if "-" in name), [first, third])

    def test_a_repetition_does_not_touch_the_release_that_runs(self):
        name = self.stage(self.names[0])
        service.switch(self.it.path("current"), name)
        self.assertEqual(self.stage(name), name + ".1")
        self.assertTrue(os.path.isdir(self.it.path(name)))

    def test_what_is_gone_is_named(self):
        everything = ["port", "variables", "release"]
        self.assertEqual(self.it.lost(20001, ["S", "T"], "a" * 40), everything)
        # Nothing is recorded, or nothing of it needs a file.
        self.assertEqual((self.it.lost(None, None, None), self.it.lost(None, [], None)), ([], []))
        service.put(self.it.path("port"), "20001\n")
        service.put(self.it.path("secrets.env"), service.exports({"S": "export T=1\n' x", "T": ""}), 0o600)
        name = self.stage(self.names[0])
        for file in ("digest", "start"):
            service.put(self.it.path(name, file), "x")
        service.switch(self.it.path("current"), name)
        os.makedirs(os.path.dirname(self.it.link))
        os.symlink("anything", self.it.link)
        self.assertEqual(self.it.lost(20001, ["T", "S"], "a" * 40), [])
        # Otherwise than recorded is as good as gone.
        self.assertEqual(self.it.lost(20002, ["S"], "b" * 40), everything)
        pathlib.Path(self.it.path("secrets.env")).write_text("export S='no end")
        shutil.rmtree(self.it.path(name, "files"))
        self.assertEqual(self.it.lost(20001, ["S"], "a" * 40), ["variables", "release"])
        # What cannot be read is one service's trouble, and not that of all.
        os.unlink(self.it.path("port"))
        os.makedirs(self.it.path("port"))
        os.unlink(self.it.path("current"))
        os.makedirs(self.it.path("current"))
        self.assertEqual(self.it.lost(20001, ["S"], "a" * 40), everything)

    def test_who_serves_files_alone_is_told_nothing(self):
        for kind, same in (("static", True), ("angular", True), ("node", False), ("python", False)):
            digests = [self.it.compare(kind, "a" * 40, 20001, "/", {"A": value}, [])["digest"] for value in "xy"]
            self.assertEqual(digests[0] == digests[1], same, kind)

    def test_what_a_build_says_is_kept_on_the_host_and_its_end_is_shown(self):
        name = self.stage(self.names[0])

        def build(line):
            # What a type's own builds need is not on every machine.
            with mock.patch.object(service, "needed", lambda *_: []), mock.patch.object(service, "build_steps", lambda *_: [["sh", "-c", line]]):
                return self.it.build("node", name)

        built = build("yes $$ | head -n 100000; echo at last")
        self.assertEqual((built["changed"], built["said"][-1], len(built["said"])), (True, "at last", service.BUILD_LINES))
        self.assertGreater(os.path.getsize(self.it.path(name, "build.log")), 200000)
        for end, words in (("exit 7", "ended with 7"), ("kill -9 $$", "was ended by signal 9")):
            with self.assertRaisesRegex(service.Refused, f"{words}[^\\n]*\nnothing is live: nothing was before\n(?s:.*)and more"):
                build("echo and more >&2; " + end)
        # What was live is live still, and named.
        service.put(self.it.path(name, "digest"), "x")
        service.switch(self.it.path("current"), name)
        second = self.stage(self.names[1])
        os.makedirs(self.it.path(second, "files", "package.json"))
        for kind, change in (("angular", self.it.build), ("static", lambda kind, release: self.it.start(kind, release, 1, "/", "x", 1))):
            with self.subTest(kind), self.assertRaisesRegex(service.Refused, f"live still: commit {'a' * 40}"):
                change(kind, second)
        # A job that was ended while it waited for the answer.
        service.switch(self.it.path("before"), name)
        service.switch(self.it.path("current"), second)
        with self.assertRaisesRegex(service.Refused, f"not known what answers: commit {'b' * 40} was being started, before it commit {'a' * 40} was"):
            self.it.build("angular", second)

    def test_names(self):
        for name in ("../6", "", "a/b", ".x"):
            with self.assertRaises(service.Refused):
                service.Service(self.root, name)
        for name in ("x", "a" * 40, "../" + "a" * 40 + "-1"):
            with self.assertRaises(service.Refused):
                self.stage(name)

    def test_secrets_that_a_process_prints_are_not_shown(self):
        service.put(self.it.path("secrets.env"), service.exports({"LONG": "s3cr3t 'x\nof two lines", "SHORT": "1"}), 0o600)
        os.makedirs(self.it.path("log"))
        pathlib.Path(self.it.log).write_text("before\n")
        size = self.it.log_size()
        with open(self.it.log, "a") as log:
            log.write("".join(f"line {number}\n" for number in range(100)) + "password is s3cr3t 'x\nand of two lines\n")
        shown = self.it.log_since(size)
        self.assertIn("password is ********\nand ********", shown)
        self.assertEqual(len(shown.splitlines()), service.LOG_LINES + 1)
        # What is cut off leaves no part of a value.
        pathlib.Path(self.it.log).write_text("s3cr3t 'x" + "y" * (service.LOG_BYTES + 5) + "\n")
        self.assertEqual(set(self.it.log_since(0).partition("\n")[2]), {"y"})
        # A new file was begun since then.
        pathlib.Path(self.it.log).write_text("anew\n")
        self.assertEqual(self.it.log_since(size), "its log:\nanew")


if __name__ == "__main__":
    unittest.main()
