"""announce-apps: what it reads from inventories, and what it does with each answer of the dispatcher."""

import contextlib
import io
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from tests.support import ROOT, FakeApi, certificate, load

announce = load(ROOT / "bin" / "announce_apps.py")

try:
    from ansible import release as ansible  # noqa: F401  (a folder named ansible is importable, too)
except ImportError:
    ansible = None

APPS = [{"deployment_id": "a", "deployment_secret": "s3cret-a", "inventory": "a.epfl.ch"}]
OK = (200, {}, {"status": "ok"})


class Temporary(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)


@unittest.skipUnless(ansible, "needs ansible-core: run tests/run")
class Reading(Temporary):
    def setUp(self):
        super().setUp()
        self.inventories = self.folder / "inventories"
        self.inventories.mkdir()

    def inventory(self, name, all_vars, hosts="web: {hosts: {h1: , h2: }}"):
        folder = self.inventories / name
        (folder / "group_vars").mkdir(parents=True)
        (folder / "hosts.yml").write_text(hosts + "\n")
        (folder / "group_vars" / "all.yml").write_text(all_vars)

    def read(self, **environ):
        # A process of its own: Ansible reads its configuration once, when it is imported.
        values = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(self.folder), **environ}
        command = [sys.executable, str(ROOT / "bin" / "announce_apps.py"), "--print", "--inventories", str(self.inventories)]
        return subprocess.run(command, env={**os.environ, **values}, capture_output=True, text=True)

    def apps(self, **environ):
        done = self.read(**environ)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def refused(self, words):
        done = self.read()
        self.assertEqual(done.returncode, 65, done.stderr)
        self.assertIn(words, done.stderr)
        self.assertNotIn("Traceback", done.stderr)
        return done

    def test_the_samples_are_the_sample_inventory(self):
        self.inventories = ROOT / "inventories"
        sample = ROOT.parent / "sample_inventory.json"
        expected = json.loads(sample.read_text()) if sample.exists() else [
            {"deployment_id": "app-one", "deployment_secret": "secret123", "inventory": "app-one.epfl.ch"},
            {"deployment_id": "app-two", "deployment_secret": "secretABC", "inventory": "app-two.epfl.ch"},
        ]  # fmt: skip
        self.assertEqual(self.apps(), expected)

    def test_settings_templates_and_hosts_without_an_app(self):
        self.inventory(
            "one",
            "vault_secret: from-template\nlockstep_deployment_id: one\nlockstep_deployment_secret: '{{ vault_secret }}'\n"
            "lockstep_settings: {vars: {version: '[0-9.]+'}, when_busy: '{{ \"fi\" ~ \"fo\" }}', n: 3}\n",
        )
        self.inventory("other", "x: 1\n")
        expected = {"vars": {"version": "[0-9.]+"}, "when_busy": "fifo", "n": 3}
        self.assertEqual(
            self.apps(), [{"deployment_id": "one", "deployment_secret": "from-template", "inventory": "one", **expected}]
        )

    def test_an_app_with_rules_for_id_tokens_needs_no_secret(self):
        rules = "[{issuer: 'https://gitlab.com', audience: 'https://l', claims: {project_id: 42, ref_protected: true}}]"
        self.inventory("one", f"lockstep_deployment_id: one\nlockstep_settings: {{oidc: {rules}}}\n")
        claims = {"project_id": 42, "ref_protected": True}
        rule = {"issuer": "https://gitlab.com", "audience": "https://l", "claims": claims}
        self.assertEqual(self.apps(), [{"deployment_id": "one", "inventory": "one", "oidc": [rule]}])

    def test_several_apps_of_one_inventory(self):
        hosts = "web: {hosts: {h1: {lockstep_deployment_id: x}, h2: {lockstep_deployment_id: y}, h3: {lockstep_deployment_id: x}}}"
        self.inventory("one", "lockstep_deployment_secret: s\n", hosts)
        self.assertEqual([app["deployment_id"] for app in self.apps()], ["x", "y"])

    def test_left_out(self):
        self.inventory("one", "lockstep_deployment_id: one\nlockstep_deployment_secret: s\n")
        self.inventory(
            "two",
            "lockstep_announce: \"{{ '/nonexistent' is file }}\"\nlockstep_deployment_id: two\n"
            "lockstep_deployment_secret: \"{{ lookup('ansible.builtin.file', '/nonexistent') }}\"\n",
        )
        self.assertEqual([app["deployment_id"] for app in self.apps()], ["one"])

    def test_vault(self):
        password = self.folder / "password"
        password.write_text("open sesame\n")
        config = {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": str(self.folder)}
        inline = subprocess.run(
            ["ansible-vault", "encrypt_string", "--vault-password-file", password, "--stdin-name", "lockstep_deployment_secret"],
            input="inline-secret", env={**os.environ, **config}, capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        self.inventory("one", "lockstep_deployment_id: one\n" + inline)
        self.inventory("two", "lockstep_deployment_id: two\nlockstep_deployment_secret: '{{ vaulted }}'\n")
        whole = self.inventories / "two" / "group_vars" / "web.yml"
        whole.write_text("vaulted: file-secret\n")
        subprocess.run(
            ["ansible-vault", "encrypt", "--vault-password-file", password, whole],
            env={**os.environ, **config}, capture_output=True, check=True,
        )  # fmt: skip
        apps = self.apps(ANSIBLE_VAULT_PASSWORD_FILE=str(password))
        self.assertEqual([app["deployment_secret"] for app in apps], ["inline-secret", "file-secret"])
        # Without the password there is no list at all, rather than one without these apps.
        self.assertIn("inventory one", self.refused("lockstep_deployment_secret cannot be evaluated").stderr)

    def test_refusals_name_the_inventory_and_hide_the_secret(self):
        for text, words in (
            ("lockstep_deployment_id: one\n", "lockstep_deployment_secret is missing"),
            ("lockstep_deployment_id: one\nlockstep_settings: {oidc: []}\n", "lockstep_deployment_secret is missing"),
            ("lockstep_deployment_id: one\nlockstep_deployment_secret: ''\nlockstep_settings: {oidc: [x]}\n", "is missing"),
            ("lockstep_deployment_id: 7\nlockstep_deployment_secret: s\n", "must be a string"),
            ("lockstep_deployment_id: one\nlockstep_deployment_secret: 'hidden {{ nope }}'\n", "cannot be evaluated"),
            ("lockstep_deployment_id: '{{ nope }}'\n", "'nope' is undefined"),
            ("lockstep_deployment_id: one\nlockstep_deployment_secret: s\nlockstep_settings: {inventory: x}\n", "must be a mapping"),
            ("lockstep_deployment_id: one\nlockstep_deployment_secret: s\nlockstep_settings: [x]\n", "must be a mapping"),
            ("lockstep_deployment_secret: {hidden\n- [", "cannot be read"),
        ):
            self.inventory("one", text)
            with self.subTest(text):
                done = self.refused(words)
                self.assertIn("inventory one", done.stderr)
                self.assertNotIn("hidden", done.stderr)
            for path in sorted((self.inventories / "one").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            (self.inventories / "one").rmdir()

    def test_hosts_that_disagree_and_ids_twice(self):
        hosts = "web: {hosts: {h1: {lockstep_deployment_secret: s}, h2: {lockstep_deployment_secret: t}}}"
        self.inventory("one", "lockstep_deployment_id: one\n", hosts)
        self.refused("its hosts disagree")
        (self.inventories / "one" / "hosts.yml").write_text("web: {hosts: {h1: {lockstep_deployment_secret: s}}}\n")
        self.inventory("two", "lockstep_deployment_id: one\nlockstep_deployment_secret: s\n")
        self.refused("deployment id one is in two inventories: one and two")

    def test_no_app_at_all_and_a_broken_inventory(self):
        self.refused("none of the 0 inventories")
        self.inventory("one", "x: 1\n", hosts="web: [")
        self.refused("inventory one cannot be read")


class Posting(Temporary):
    def setUp(self):
        super().setUp()
        certificate(self.folder)
        (self.folder / "token").write_text("token-of-the-job\n")
        self.addCleanup(setattr, announce, "all_apps", announce.all_apps)
        announce.all_apps = lambda _folder: (APPS, 1)

    def run_against(self, url, deadline="10"):
        command = ["--url", url, "--token-file", f"{self.folder}/token", "--ca-cert", f"{self.folder}/ca.crt", "--deadline", deadline]
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
            code = announce.main(command)
        return code, output.getvalue()

    def answered(self, *answers, deadline="10"):
        left = list(answers)
        with FakeApi(self.folder, lambda path, body: left.pop(0) if len(left) > 1 else left[0]) as api:
            code, output = self.run_against(api.url, deadline)
        self.assertNotIn("s3cret-a", output)
        self.assertNotIn("token-of-the-job", output)
        return code, output, api

    def test_posts_the_list_with_the_token(self):
        code, output, api = self.answered((200, {}, {"status": "ok", "warnings": ["app a: unknown field x", {"field": "s3cret-a"}]}))
        self.assertEqual(code, 0, output)
        (path, headers, body, _size), = api.requests  # fmt: skip
        self.assertEqual((path, body), ("/set-available-apps/", APPS))
        self.assertEqual(headers["Authorization"], "Bearer token-of-the-job")
        self.assertEqual(headers["Content-Type"], "application/json")
        self.assertIn("1 apps in 1 inventories: a\n", output)
        self.assertIn("warning: app a: unknown field x\n", output)
        self.assertIn('warning: {"field": "***"}\n', output)
        self.assertIn("ok: the dispatcher knows 1 apps, 2 warnings\n", output)

    def test_tries_again_while_it_may_pass(self):
        busy = [(status, {"Retry-After": "0"}, {"status": "error", "error": "not now"}) for status in (503, 429, 502, 504)]
        code, output, api = self.answered(*busy, OK)
        self.assertEqual(code, 0, output)
        self.assertEqual(len(api.requests), 5)
        self.assertIn("waiting for the dispatcher", output)

    def test_gives_up_at_the_deadline(self):
        code, output, _api = self.answered((503, {}, {"status": "error", "error": "Redis is down"}), deadline="1")
        self.assertEqual(code, 69)
        self.assertIn("within 1 s: it answered 503", output)

    def test_refusals_are_final(self):
        for answer, expected, words in (
            ((401, {}, {"status": "error", "error": "unknown token"}), 77, "(401): unknown token"),
            ((403, {}, {"title": "not yours"}), 77, "(403): not yours"),
            ((200, {}, {"status": "error", "error": "duplicate id a, secret s3cret-a"}), 76, "duplicate id a, secret ***"),
            ((400, {}, {"status": "error", "error": "empty"}), 76, "(400): empty"),
            ((404, {}, None), 76, "(404)"),
            ((302, {"Location": "https://localhost:1/"}, None), 76, "(302)"),
            ((200, {}, ["ok"]), 76, "(200)"),
        ):
            with self.subTest(answer):
                code, output, api = self.answered(answer)
                self.assertEqual(code, expected, output)
                self.assertIn(words, output)
                self.assertEqual(len(api.requests), 1)

    def test_dispatcher_that_is_only_starting(self):
        with FakeApi(self.folder, lambda path, body: OK) as first:
            url, port = first.url, first.port
        # The port is closed now, and opens once a try was refused.
        late, said = [], []

        def say(text):
            said.append(text)
            if not late:
                late.append(FakeApi(self.folder, lambda path, body: OK, port=port).__enter__())

        context = announce.tls(f"{self.folder}/ca.crt")
        self.assertEqual(announce.deliver(announce.address(url), context, "t", APPS, 20, say), [])
        late[0].__exit__()
        self.assertIn("refused", said[0])

    def test_certificate_that_is_not_trusted_is_final(self):
        other = self.folder / "other"
        other.mkdir()
        certificate(other)
        with FakeApi(other, lambda path, body: OK) as api:
            code, output = self.run_against(api.url)
        self.assertEqual(code, 78, output)
        self.assertIn("is not trusted", output)
        self.assertEqual(api.requests, [])

    def test_configuration(self):
        for url in ("http://127.0.0.1:1", "127.0.0.1", "https://"):
            code, output = self.run_against(url)
            self.assertEqual((code, "must be an https address" in output), (78, True), output)
        (self.folder / "token").write_text(" \n")
        self.assertEqual(self.run_against("https://127.0.0.1:1")[0], 78)
        (self.folder / "token").write_text("t")
        (self.folder / "ca.crt").write_text("no certificate")
        self.assertEqual(self.run_against("https://127.0.0.1:1")[0], 78)


if __name__ == "__main__":
    unittest.main()
