"""The runner image against a target host over SSH, as the dispatcher starts it: no capabilities, files in /run/lockstep.

Needs an engine and the images lockstep-runner and lockstep-target. Without them it is skipped, unless
LOCKSTEP_TEST_ENGINE=1 says that they must be there.
"""

import contextlib
import http.client
import json
import os
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
import unittest

from tests.support import ROOT, FakeApi, certificate

RUNNER = os.environ.get("LOCKSTEP_TEST_RUNNER_IMAGE", "lockstep-runner:latest")
TARGET = os.environ.get("LOCKSTEP_TEST_TARGET_IMAGE", "lockstep-target:latest")
LABEL = "lockstep.test=" + os.environ.get("LOCKSTEP_TEST_LABEL", "ansible")
ONE, TWO, SELF = "app-one.epfl.ch", "app-two.epfl.ch", "lockstep.epfl.ch"
UID = 10001
CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def docker(*arguments, check=True, **options):
    done = subprocess.run(["docker", *map(str, arguments)], capture_output=True, text=True, **options)
    if check and done.returncode:
        raise AssertionError(f"docker {' '.join(map(str, arguments))} ended with {done.returncode}: {done.stderr}")
    return done


def missing():
    if not shutil.which("docker"):
        return "docker is not installed"
    if docker("image", "inspect", RUNNER, TARGET, check=False).returncode:
        return f"the engine or one of the images {RUNNER}, {TARGET} is not there"
    return None


def wait_for(what, condition, seconds=30):
    """Some conditions have no event to wait for: a port that opens, a container that ends."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {seconds} s"
        time.sleep(0.05)


class Case(unittest.TestCase):
    """A target that is several hosts, a dispatcher that is none, and jobs as the dispatcher starts them."""

    HOSTS = (ONE, TWO, SELF)
    CLEAR = "rm -rf /srv/www/app-* /srv/www/app/* /var/lib/lockstep/*"

    @classmethod
    def setUpClass(cls):
        reason = missing()
        if reason and os.environ.get("LOCKSTEP_TEST_ENGINE") != "1":
            raise unittest.SkipTest(reason)
        assert not reason, reason
        folder = tempfile.TemporaryDirectory(prefix="lockstep-ssh-")
        cls.addClassCleanup(folder.cleanup)
        cls.folder = pathlib.Path(folder.name)
        cls.folder.chmod(0o755)
        cls.name = "lockstep-test-ansible-%d" % os.getpid()
        docker("network", "create", "--label", LABEL, cls.name)
        cls.addClassCleanup(docker, "network", "rm", cls.name)
        cls.make_keys()
        cls.start_target()

        gateway = docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}").stdout.strip()
        certificate(cls.folder, "DNS:host.docker.internal")
        cls.api = FakeApi(cls.folder, lambda path, body: cls.answer(path, body), address=gateway)
        cls.api.__enter__()
        cls.addClassCleanup(cls.api.__exit__)
        cls.url = f"https://host.docker.internal:{cls.api.port}"
        cls.fence = int(time.time() * 1000)
        cls.jobs = 0

    @classmethod
    def make_keys(cls):
        # By the runner image, which has ssh-keygen; nothing more than docker is asked of this machine.
        make = (
            "cd /keys && mkdir ssh target && ssh-keygen -q -t ed25519 -N '' -f ssh/id_ed25519"
            " && ssh-keygen -q -t ed25519 -N '' -f target/ssh_host_ed25519_key && cp ssh/id_ed25519.pub target/authorized_keys"
            f" && for h in {' '.join(cls.HOSTS)}; do echo $h $(cut -d' ' -f1,2 target/ssh_host_ed25519_key.pub); done > ssh/known_hosts"
            f" && chmod 600 ssh/* && cp -a ssh other && chown -R {UID}:{UID} ssh && chown -R 54321 other"
            " && chmod 755 ssh other"
        )
        docker("run", "--rm", "--user", "0", "-v", f"{cls.folder}:/keys", "--entrypoint", "sh", RUNNER, "-ec", make)

    @classmethod
    def start_target(cls):
        aliases = [f"--network-alias={name}" for name in cls.HOSTS]
        cls.target = docker(
            "run", "-d", "--name", cls.name, "--label", LABEL, "--network", cls.name, *aliases,
            "--add-host", "host.docker.internal:host-gateway", "-v", f"{cls.folder}/target:/run/target:ro", TARGET,
        ).stdout.strip()  # fmt: skip
        cls.addClassCleanup(docker, "rm", "-f", cls.target)
        networks = json.loads(docker("inspect", cls.target).stdout)[0]["NetworkSettings"]["Networks"]
        cls.address = networks[cls.name]["IPAddress"]
        for port in (22, 80):
            wait_for(f"port {port} of the target", lambda port=port: cls.listens(port))

    @classmethod
    def listens(cls, port):
        with socket.socket() as probe:
            return probe.connect_ex((cls.address, port)) == 0

    @classmethod
    def answer(cls, path, body):
        return (200, {}, {"status": "ok"}) if path == "/set-available-apps/" else (204, {}, None)

    def setUp(self):
        self.api.requests.clear()
        docker("exec", self.target, "sh", "-c", self.CLEAR)

    # --- what the dispatcher does

    def job_id(self):
        type(self).jobs += 1
        return "01GZEC5GJHFKWMK4Z5A1NM9D" + CROCKFORD[self.jobs // 32] + CROCKFORD[self.jobs % 32]

    def next_fence(self):
        type(self).fence += 1
        return self.fence

    def create(self, inventory, job, fence, variables=None, ssh="ssh", extra=(), command=None):
        environ = {
            "LOCKSTEP_JOB_ID": job, "LOCKSTEP_INVENTORY": inventory, "LOCKSTEP_DEPLOYMENT_ID": inventory.split(".")[0],
            "LOCKSTEP_FENCE": fence, "LOCKSTEP_URL": self.url,
        }  # fmt: skip
        container = docker(
            "create", "--label", LABEL, "--network", self.name, "--add-host", "host.docker.internal:host-gateway",
            "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--pids-limit", "512", "--memory", "1g",
            "-v", f"{self.folder}/{ssh}:/home/runner/.ssh:ro", *[f"--env={name}={value}" for name, value in environ.items()],
            *extra, RUNNER, *(command or ["app-deploy", inventory, job]),
        ).stdout.strip()  # fmt: skip
        self.addCleanup(docker, "rm", "-f", container)
        with tempfile.TemporaryDirectory() as folder:
            run = pathlib.Path(folder) / "lockstep"
            run.mkdir()
            run.chmod(0o755)
            (run / "vars.json").write_text(json.dumps(variables or {}))
            (run / "token").write_text("job-token")
            shutil.copy(self.folder / "ca.crt", run / "ca.crt")
            for file in run.iterdir():
                file.chmod(0o444)
            if "--read-only" in extra:  # the engine copies nothing into a read-only root
                shutil.copytree(run, self.folder / "run", dirs_exist_ok=True)
            else:
                docker("cp", run, f"{container}:/run/")
        return container

    def run_job(self, inventory=ONE, job=None, fence=None, variables=None, **options):
        job = job or self.job_id()
        container = self.create(inventory, job, fence or self.next_fence(), variables, **options)
        done = subprocess.run(["docker", "start", "-a", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.assertNotIn("\x1b", done.stdout)
        self.assertNotIn("[WARNING]", done.stdout)
        self.assertNotIn("job-token", done.stdout)
        return done.returncode, done.stdout, job

    def deploy(self, *arguments, **options):
        code, output, job = self.run_job(*arguments, **options)
        self.assertEqual(code, 0, output)
        return job

    def page(self, host=ONE):
        connection = http.client.HTTPConnection(self.address, 80, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", "/", headers={"Host": host})
            answer = connection.getresponse()
            content = answer.read().decode()
        return content if answer.status == 200 else None

    def on_target(self, command):
        return docker("exec", self.target, "sh", "-c", command).stdout.split()


class OverSsh(Case):
    def test_a_release_is_deployed_and_reported(self):
        job = self.deploy(variables={"version": "1.2.3"})
        page = self.page()
        for text in (job, "app-one", "1.2.3"):
            self.assertIn(text, page)
        last = self.api.bodies[-1]
        self.assertEqual(last["recap"][ONE]["failed"], 0)
        self.assertEqual(last["outputs"]["version"], "1.2.3")
        self.assertEqual(last["failures"], [])
        # Another app on the same machine does not touch it. Variables are text and never evaluated.
        other = self.deploy(TWO, variables={"version": "{{ lookup('pipe', 'id') }}<b>"})
        self.assertIn(other, self.page(TWO))
        self.assertIn("{{ lookup(&#39;pipe&#39;, &#39;id&#39;) }}&lt;b&gt;", self.page(TWO))
        self.assertEqual(self.page(), page)

    def test_a_lower_fence_is_refused_on_the_target(self):
        job, fence = self.deploy(), self.fence
        page = self.page()
        for number, words in ((fence - 1, f"fence {fence - 1} of job"), (fence, f"fence {fence} of job")):
            code, output, late = self.run_job(fence=number)
            self.assertEqual(code, 2, output)
            text = " ".join(output.split())
            self.assertIn(words, text)
            self.assertIn(job, text)
            self.assertIn(late, text)
            self.assertEqual(self.page(), page)
            (failure,) = self.api.bodies[-1]["failures"]
            self.assertIn("nothing was changed", failure["message"])
        self.assertEqual(self.on_target(f"ls /srv/www/{ONE}/releases"), [job])
        # The same job again, as after a lost answer, and newer ones pass. Old releases are removed.
        self.deploy(job=job, fence=fence)
        newer = [self.deploy(variables={"release_keep": 2}) for _ in range(2)]
        self.assertEqual(sorted(self.on_target(f"ls /srv/www/{ONE}/releases")), newer)

    def test_a_check_that_fails_puts_the_old_release_back(self):
        broken = {"release_check_url": "http://127.0.0.1:81/", "release_check_retries": 1}
        code, output, _job = self.run_job(variables=broken)
        self.assertEqual(code, 2, output)
        self.assertIsNone(self.page())
        job = self.deploy()
        code, output, failed = self.run_job(variables=broken)
        self.assertEqual(code, 2, output)
        self.assertIn(f"switched back to releases/{job}", " ".join(output.split()))
        self.assertIn(job, self.page())
        self.assertEqual(self.on_target(f"ls /srv/www/{ONE}/releases"), [job])
        self.assertIn("The web server answers", self.api.bodies[-1]["failures"][-1]["message"])
        self.assertNotEqual(failed, job)

    def test_another_uid_and_a_read_only_root(self):
        self.deploy(extra=["--user", "54321"], ssh="other")
        run = f"{self.folder}/run:/run/lockstep:ro"
        self.deploy(extra=["--read-only", "--tmpfs", "/tmp", "-v", run])

    def test_a_host_that_is_not_known_is_not_deployed_to(self):
        known_hosts = self.folder / "ssh" / "known_hosts"
        before = known_hosts.read_text()
        try:
            known_hosts.write_text(before.replace(ONE, "somebody-else"))
            code, output, _job = self.run_job()
        finally:
            known_hosts.write_text(before)
        self.assertEqual(code, 2, output)
        self.assertIn("Host key verification failed", output)
        self.assertIsNone(self.page())
        self.assertEqual(self.api.bodies[-1]["recap"][ONE]["unreachable"], 1)

    def test_sigterm_ends_it_at_once(self):
        container = self.create(ONE, self.job_id(), self.next_fence())
        # It takes connections and says nothing. (Whether an engine can freeze a container depends on what the container does.)
        docker("exec", self.target, "pkill", "-STOP", "--oldest", "--exact", "sshd")
        try:
            docker("start", container)
            self.api.wait(lambda requests: any(body["play"] == "Take the fence" for _, _, body, _ in requests), 60)
            docker("kill", "--signal", "TERM", container)
            ended = docker("wait", container, timeout=10).stdout.strip()
        finally:
            docker("exec", self.target, "pkill", "-CONT", "--oldest", "--exact", "sshd")
        self.assertEqual(ended, "143")
        self.assertIsNone(self.page())

    def test_the_readme_command_runs_by_hand(self):
        readme = (ROOT / "README.md").read_text(encoding="utf-8")
        (command,) = re.findall(r"^```sh\n(docker run .*?)^```$", readme, re.MULTILINE | re.DOTALL)
        run = self.folder / "run"
        run.mkdir(exist_ok=True)
        (run / "vars.json").write_text("{}")
        (run / "token").write_text("none")
        shutil.copy(self.folder / "ca.crt", run)
        # Nothing but the name of the network differs from what is written there.
        command = command.replace("--network lockstep ", f"--network {self.name} ")
        done = subprocess.run(["sh", "-c", command], cwd=self.folder, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("01GZEC5GJHFKWMK4Z5A1NM9DPF", self.page())

    def test_unknown_inventory(self):
        self.assertEqual(self.run_job("app-zero.epfl.ch")[0], 66)

    def test_announce_apps_with_the_dispatchers_own(self):
        secret = self.folder / "own"
        secret.write_text("s3cret-own\n")
        secret.chmod(0o444)
        mount = ["-v", f"{secret}:/run/secrets/lockstep-deployment-secret:ro"]
        code, output, _job = self.run_job(command=["announce-apps"], extra=mount)
        self.assertEqual(code, 0, output)
        ((path, headers, body, _size),) = self.api.requests
        self.assertEqual((path, headers["Authorization"]), ("/set-available-apps/", "Bearer job-token"))
        self.assertEqual([app["inventory"] for app in body], [ONE, TWO, SELF])
        self.assertNotIn("secret123", output)
        own = {"deployment_id": "lockstep", "deployment_secret": "s3cret-own", "inventory": SELF}
        self.assertEqual(body[-1], own)
        self.assertNotIn("s3cret-own", output)

    def test_the_dispatcher_is_replaced_and_fed(self):
        ready = [(503, {}, {}), (503, {}, {}), (200, {}, {"status": "ok"})]
        self.addCleanup(setattr, type(self), "answer", type(self).answer)
        usual = type(self).answer
        type(self).answer = staticmethod(
            lambda path, body: (ready.pop(0) if len(ready) > 1 else ready[0]) if path == "/readyz" else usual(path, body)
        )
        variables = {
            "dispatcher_folder": "/tmp", "dispatcher_url": self.url,
            "dispatcher_command": ["sh", "-c", "echo replaced > /tmp/dispatcher"],
        }  # fmt: skip
        code, output, _job = self.run_job(SELF, variables=variables)
        self.assertEqual(code, 0, output)
        self.assertEqual(self.on_target("cat /tmp/dispatcher; ls -d /tmp/lockstep-* 2>/dev/null || true"), ["replaced"])
        paths = [path for path, _, _, _ in self.api.requests]
        self.assertEqual(paths.count("/readyz"), 3)
        (feed,) = [(headers, body) for path, headers, body, _ in self.api.requests if path == "/set-available-apps/"]
        self.assertNotIn("Authorization", feed[0])
        self.assertEqual([app["deployment_secret"] for app in feed[1]], ["secret123", "secretABC"])
        self.assertNotIn("secret123", output)
        self.assertNotIn("secret123", json.dumps([body for path, _, body, _ in self.api.requests if "/progress" in path]))


if __name__ == "__main__":
    unittest.main()
