"""README.md is true: its files make a working inventory and role, its commands run, its codes and paths exist."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

from tests.support import JOB, ROOT, load

try:
    from ansible import release as ansible  # a folder named ansible is importable, too
except ImportError:
    ansible = None

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(\w+)(?: file=(\S+))?( encrypted)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Readme(unittest.TestCase):
    def blocks(self, kind):
        return [match.groups()[1:] for match in BLOCK.finditer(README) if match.group(1) == kind]

    def test_codes_are_those_of_the_programs(self):
        told = {int(code) for code in re.findall(r"^\| (\d\d) \|", README, re.MULTILINE)}
        entrypoint, announce = load(ROOT / "bin" / "entrypoint.py"), load(ROOT / "bin" / "announce_apps.py")
        codes = {value for module in (entrypoint, announce) for name, value in vars(module).items()
                 if name in ("USAGE", "DATA", "NO_INPUT", "CANNOT_CREATE", "CONFIG", "UNAVAILABLE", "PROTOCOL", "NO_PERMISSION")}  # fmt: skip
        self.assertEqual(told, codes)

    def test_paths_and_variables_exist(self):
        own = {path for _kind, path, *_ in BLOCK.findall(README) if path}
        for path in re.findall(r"`((?:playbooks|roles|plugins|library|module_utils|inventories|bin|tests)/[\w./-]*)`", README):
            if path not in own:
                self.assertTrue((ROOT / path).exists(), path)
        defaults = "".join(file.read_text() for file in ROOT.glob("roles/*/defaults/main.yml"))
        for name in set(re.findall(r"\b((?:release|dispatcher|fence|order|service|proxy)_[a-z_]+)\b", README)):
            self.assertRegex(defaults, rf"(?m)^{name}:")

    @unittest.skipUnless(ansible, "needs ansible-core: run tests/run")
    def test_snippets_work(self):
        with tempfile.TemporaryDirectory() as folder:
            root = pathlib.Path(folder) / "ansible"
            shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("tests", "__pycache__"))
            for path, _encrypted, text in self.blocks("yaml"):
                file = root / path
                self.assertFalse(file.exists(), path)
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(text)
            (root / "vault-password").write_text("open sesame\n")
            playbook = root / "playbooks" / "app-deploy.yml"
            text = playbook.read_text().replace("deployed_groups: [web, ", "deployed_groups: [cron, web, ")
            text += "\n- name: Install scripts\n  hosts: cron\n  gather_facts: false\n  roles: [fence, cron]\n"
            playbook.write_text(text)
            environ = {
                **os.environ, "ANSIBLE_CONFIG": str(root / "ansible.cfg"), "ANSIBLE_HOME": folder, "HOME": folder,
                "LOCKSTEP_FENCE": "1", "LOCKSTEP_JOB_ID": JOB, "LOCKSTEP_INVENTORY": "wiki.epfl.ch",
            }  # fmt: skip

            def run(*command, **extra):
                done = subprocess.run(command, cwd=root, env={**environ, **extra}, capture_output=True, text=True)
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
                return done.stdout

            (vault,) = [text for _path, _encrypted, text in self.blocks("sh") if text.startswith("ansible-vault")]
            run("sh", "-ec", vault)
            for path, encrypted, _text in self.blocks("yaml"):
                self.assertEqual((root / path).read_text().startswith("$ANSIBLE_VAULT"), bool(encrypted), path)
            password = {"ANSIBLE_VAULT_PASSWORD_FILE": str(root / "vault-password")}
            apps = json.loads(run(sys.executable, "bin/announce_apps.py", "--print", **password))
            wiki = next(app for app in apps if app["deployment_id"] == "wiki")
            self.assertEqual(wiki["deployment_secret"], "a-long-random-secret")
            self.assertEqual(list(wiki["vars"]), ["version"])
            hosts = run("ansible-playbook", "--list-hosts", "-i", "inventories/wiki.epfl.ch", "playbooks/app-deploy.yml", **password)
            self.assertIn("wiki-2.epfl.ch", hosts)
            self.run_role(root, run, password)

    def run_role(self, root, run, password):
        """The role of the README, on this machine, with its folder moved below the temporary one."""
        (root / "srv").mkdir()
        for file in (root / "roles" / "cron" / "tasks").iterdir():
            file.write_text(file.read_text().replace("/srv/cron", f"{root}/srv"))
        play = [{"hosts": "all", "gather_facts": False, "roles": ["fence", "cron"],
                 "tasks": [{"include_role": {"name": "cron", "tasks_from": "switch.yml"}}]}]  # fmt: skip
        (root / "play.yml").write_text(json.dumps(play))
        extra = json.dumps({"fence_dir": f"{root}/fence", "ansible_python_interpreter": sys.executable})
        run("ansible-playbook", "-i", "here,", "-c", "local", "-e", extra, "play.yml", **password)
        self.assertTrue((root / "srv" / "report").exists())
        self.assertEqual(os.readlink(root / "srv" / "current"), f"releases/{JOB}")


if __name__ == "__main__":
    unittest.main()
