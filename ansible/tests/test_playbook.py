"""playbooks/app-deploy.yml never succeeds without having deployed something."""

import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

from tests.support import JOB, ROOT

try:
    from ansible import release as ansible  # a folder named ansible is importable, too
except ImportError:
    ansible = None


@unittest.skipUnless(ansible, "needs ansible-core: run tests/run")
class AppDeploy(unittest.TestCase):
    def play(self, inventory, **environ):
        with tempfile.TemporaryDirectory() as folder:
            hosts = pathlib.Path(folder) / "hosts.yml"
            hosts.write_text(inventory)
            fence_dir = f"fence_dir={folder}/fence"
            values = {
                "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_HOME": folder, "ANSIBLE_PYTHON_INTERPRETER": sys.executable,
                "LOCKSTEP_INVENTORY": "test", "LOCKSTEP_JOB_ID": JOB, "LOCKSTEP_FENCE": "1", **environ,
            }  # fmt: skip
            command = ["ansible-playbook", "-c", "local", "-i", str(hosts), "-e", fence_dir, str(ROOT / "playbooks" / "app-deploy.yml")]
            done = subprocess.run(command, env={**os.environ, **values}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        return done.returncode, " ".join(done.stdout.split())

    def refused(self, inventory, words, **environ):
        code, output = self.play(inventory, **environ)
        self.assertNotEqual(code, 0, output)
        self.assertIn(words, output)
        self.assertNotIn("TASK [release", output)

    def test_inventory_without_hosts(self):
        self.refused("web: {hosts: {}}", "the inventory has no hosts")

    def test_host_in_no_group_that_is_deployed(self):
        self.refused("{web: {hosts: {a: }}, wbe: {hosts: {b: }}}", "in none of the groups that are deployed (web, dispatcher, services, traffic): b")

    def test_a_service_whose_slots_share_a_port_or_whose_version_is_no_text(self):
        service = "{services: {hosts: {a: {service_name: x, service_files: /x, service_command: x, service_ports: %s, version: '%s'}}}}"
        self.refused(service % ("[1, '1']", "1"), "two ports")
        self.refused(service % ("[1, 2]", "{1"), "a version must not begin with a brace")

    def test_inventory_that_cannot_be_read(self):
        self.refused("web: [", "")

    def test_run_without_a_fence(self):
        self.refused("web: {hosts: {a: }}", "fence", LOCKSTEP_FENCE="")


if __name__ == "__main__":
    unittest.main()
