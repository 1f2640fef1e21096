"""Revisions and files of repositories, by git itself where it is there."""

import os
import pathlib
import shutil
import subprocess
import tarfile
import tempfile
import unittest

from tests.support import ROOT, load

repository = load(ROOT / "library" / "lockstep_repository.py")
ONE, TWO = "1" * 40, "2" * 40


class Pure(unittest.TestCase):
    def test_a_branch_goes_before_a_tag_and_a_tag_is_what_it_stands_for(self):
        lines = {"refs/tags/x": ONE, "refs/tags/x^{}": TWO, "refs/heads/y": ONE, "refs/tags/y": TWO, "refs/heads/a/z": ONE, "HEAD": TWO}
        listing = "".join(f"{commit}\t{name}\n" for name, commit in lines.items())
        self.assertEqual([repository.found(listing, revision) for revision in ("x", "y", "a/z", None)], [TWO, ONE, ONE, TWO])
        for revision in ("z", "HEAD", "*"):
            with self.assertRaisesRegex(repository.Refused, "no branch, tag or full commit id"):
                repository.found(listing, revision)
        with self.assertRaisesRegex(repository.Refused, "empty"):
            repository.found("", None)

    def test_user_and_password_are_not_shown(self):
        said = "fatal: unable to access 'https://user:p%40ss@git.example/a.git/': and https://token@x/"
        self.assertEqual(repository.shown(said), "fatal: unable to access 'https://git.example/a.git/': and https://x/")
        self.assertEqual(repository.shown("git://git.example/a@b"), "git://git.example/a@b")


@unittest.skipUnless(shutil.which("git"), "needs git: run tests/run")
class Git(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.url = f"file://{folder.name}/work"
        os.mkdir(f"{folder.name}/work")
        self.git("init", "-q", "-b", "main")
        self.first = self.commit(version="1")
        self.git("tag", "-a", "-m", "x", "v1")
        self.second = self.commit(version="2", **{".gitattributes": "hidden export-ignore\n", "hidden": "x", "a b": "y"})

    def git(self, *arguments):
        command = ["git", "-c", "user.email=a@b", "-c", "user.name=a", "-C", f"{self.folder}/work", *arguments]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def commit(self, **files):
        for name, text in files.items():
            pathlib.Path(self.folder, "work", name).write_text(text)
        self.git("add", "-A")
        self.git("commit", "-q", "-m", "x")
        return self.git("rev-parse", "HEAD")

    def export(self, commit):
        dest = os.path.join(self.folder, "files.tar")
        repository.export(self.url, commit, dest)
        with tarfile.open(dest) as archive:
            return {name: archive.extractfile(name).read().decode() for name in archive.getnames()}

    def test_revisions(self):
        asked = [{"service": str(number), "url": self.url, "revision": revision} for number, revision in enumerate([None, "main", "v1", self.first])]
        self.assertEqual(repository.resolve(asked), {"0": self.second, "1": self.second, "2": self.first, "3": self.first})

    def test_all_that_fail_are_named(self):
        asked = [
            {"service": "6", "url": self.url, "revision": None}, {"service": "7", "url": self.url, "revision": "none"},
            {"service": "8", "url": self.url + "x", "revision": ONE}, {"service": "9", "url": "ext::sh -c id", "revision": None},
            {"service": "10", "url": "ext::id", "revision": None}, {"service": "11", "url": f"--upload-pack=touch$IFS{self.folder}/run", "revision": None},
            {"service": "12", "url": self.url, "revision": ONE},
        ]  # fmt: skip
        with self.assertRaises(repository.Refused) as refused:
            repository.resolve(asked)
        lines = str(refused.exception).splitlines()
        self.assertEqual([line.split(" (")[0].rpartition(" ")[2] for line in lines], ["7", "8", "9", "10", "11", "12"])
        self.assertIn(f"there is no commit {ONE}", lines[5])
        self.assertIn("transport 'ext' not allowed", lines[3])
        self.assertFalse(os.path.exists(f"{self.folder}/run"))

    def test_all_files_of_a_commit_and_nothing_else(self):
        self.assertEqual(self.export(self.second), {".gitattributes": "hidden export-ignore\n", "hidden": "x", "a b": "y", "version": "2"})
        self.assertEqual(self.export(self.first), {"version": "1"})

    def test_a_server_that_gives_no_single_commits(self):
        # The older protocol refuses what no reference names.
        os.environ.update(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="protocol.version", GIT_CONFIG_VALUE_0="0")
        self.addCleanup(lambda: [os.environ.pop(f"GIT_CONFIG_{name}") for name in ("COUNT", "KEY_0", "VALUE_0")])
        calls, git = [], repository.git
        repository.git = lambda *arguments, **options: calls.append(arguments) or git(*arguments, **options)
        self.addCleanup(setattr, repository, "git", git)
        self.assertEqual(self.export(self.first)["version"], "1")
        self.assertEqual(["--depth=1" in call for call in calls if "fetch" in call], [True, False])

    def test_a_commit_that_is_not_there(self):
        for commit, words in ((ONE, "there is no commit 1111"), ("main", "not a full commit id"), (None, "not a full commit id")):
            with self.assertRaisesRegex(repository.Refused, words):
                self.export(commit)

    def test_a_commit_without_files(self):
        tree = self.git("hash-object", "-t", "tree", "-w", "/dev/null")
        commit = self.git("commit-tree", "-m", "nothing", tree)
        self.git("update-ref", "refs/heads/empty", commit)
        with self.assertRaisesRegex(repository.Refused, f"commit {commit} has no files"):
            self.export(commit)


if __name__ == "__main__":
    unittest.main()
