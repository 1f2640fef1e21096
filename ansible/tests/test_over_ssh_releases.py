"""Services of a release over SSH, by the inventories and playbooks of examples/brackets: what a client gets from the proxy
is what is judged. Everything that the dispatcher says to a job is in `lockstep_release`; this plays the dispatcher.
"""

import collections
import concurrent.futures
import contextlib
import http.client
import json
import os
import threading
import unittest

from tests.support import ROOT
from tests.test_over_ssh import CROCKFORD, LABEL, RUNNER, Case, docker, wait_for

EXAMPLE = ROOT.parent / "examples" / "brackets"
PLAYBOOKS = ("functional-tests", "performance-tests", "evaluation")
BACKEND, FRONTEND = "foobar-backend", "foobar-frontend"
APPS = {BACKEND: "backend", FRONTEND: "frontend"}
PORTS = {"dev": 8101, "hardening": 8102, "production": 8103}
TESTS = 100  # from a stage's port to the one where tests reach green


class Release:
    """What the dispatcher knows of a release in one stage."""

    count = 0

    def __init__(self, stage, strategy, previous=None, **versions):
        Release.count += 1
        self.id = "01GZEC5GJHFKWMK4Z5A1NM8R" + CROCKFORD[self.count // 32] + CROCKFORD[self.count % 32]
        self.stage, self.strategy = stage, strategy
        self.versions = {f"foobar-{part}": version for part, version in versions.items()}
        self.before = previous.versions if previous else {}
        self.outputs = {}

    def variables(self, operation, service=None, **more):
        services = {
            name: {"version": version, "app": f"{APPS[name]}-{self.stage}", "inventory": f"{APPS[name]}-{self.stage}"}
            for name, version in self.versions.items()
        }
        release = {"id": self.id, "pipeline": "foo", "stage": self.stage, "step": "any", "operation": operation,
                   "services": services, "outputs": self.outputs, **more}  # fmt: skip
        if service:
            previous = self.before.get(service)
            release.update(strategy=self.strategy, service=service, version=self.versions[service],
                           previous=previous and {"version": previous})  # fmt: skip
        return {"lockstep_release": release}


class Releases(Case):
    HOSTS = tuple(f"{stage}.foo.test" for stage in PORTS)
    # What a test has left: services and proxies are processes of their own.
    CLEAR = "pkill -u deploy -f 'serve.py|nginx: master'; while pgrep -u deploy -f 'serve.py|nginx:'; do sleep 0.05; done; rm -rf /srv/services/* /srv/proxy/* /var/lib/lockstep/*"

    # --- what the dispatcher does

    def create(self, inventory, job, fence, variables=None, **options):
        mounts = ["-v", f"{EXAMPLE}/inventories:/ansible/inventories:ro", "-v", f"{EXAMPLE}/services:/ansible/services:ro"]
        for name in PLAYBOOKS:
            mounts += ["-v", f"{EXAMPLE}/playbooks/{name}.yml:/ansible/playbooks/{name}.yml:ro"]
        return super().create(inventory, job, fence, variables, extra=mounts, **options)

    def deploy(self, release, operation="deploy", fails=(), more=None, **variables):
        """One job for each service, all at once. Returns their outputs."""
        jobs = {service: (self.job_id(), self.next_fence()) for service in release.versions}

        def run(service):
            values = {**release.variables(operation, service, **(more or {})), **variables}
            return self.run_job(f"{APPS[service]}-{release.stage}", *jobs[service], values)

        with concurrent.futures.ThreadPoolExecutor() as threads:
            done = dict(zip(jobs, threads.map(run, jobs)))
        for service, (code, output, _job) in done.items():
            self.assertEqual(code, 2 if service in fails else 0, output)
        outputs = {service: self.outputs(job) for service, (_code, _output, job) in done.items()}
        if operation == "deploy":
            release.outputs[{"direct": "deploy_direct", "blue_green": "deploy_blue_green"}.get(release.strategy, "canary")] = outputs
        self.said = {service: " ".join(output.split()) for service, (_code, output, _job) in done.items()}
        return outputs

    def undo(self, release, **variables):
        return self.deploy(release, "undo", **variables)

    def run_app(self, app, release, playbook=None, code=0, **variables):
        job = self.job_id()
        command = ["play", playbook, app, job] if playbook else None
        values = {**release.variables("run"), **variables}
        ended, output, _job = self.run_job(app, job, self.next_fence(), values, command=command)
        self.assertEqual(ended, code, output)
        return " ".join(output.split()), self.outputs(job)

    def switch(self, release, code=0, **variables):
        return self.run_app(f"foo-release-{release.stage}", release, code=code, **variables)

    def outputs(self, job):
        return [body for path, _, body, _ in self.api.requests if job in path][-1].get("outputs", {})

    # --- what clients see

    def get(self, stage, service, green=False, **headers):
        """What the proxy answers, or the status when it is none."""
        connection = http.client.HTTPConnection(self.address, PORTS[stage] + (TESTS if green else 0), timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", f"/{service}/", headers={name.replace("_", "-"): text for name, text in headers.items()})
            answer = connection.getresponse()
            content = answer.read()
        return json.loads(content) if answer.status == 200 else answer.status

    def seen(self, stage, green=False, **headers):
        """Versions and colours: of the backend, of the frontend, and of the backend that the frontend has asked."""
        backend, frontend = (self.get(stage, service, green, **headers) for service in (BACKEND, FRONTEND))
        pair = lambda answer: (answer["version"], answer["colour"]) if isinstance(answer, dict) and "version" in answer else answer  # noqa: E731
        return pair(backend), pair(frontend), pair(frontend["backend"]) if isinstance(frontend, dict) else None

    def assert_blue(self, stage, version):
        self.assertEqual(self.seen(stage), ((version, "blue"),) * 3)

    def assert_green(self, stage, version):
        self.assertEqual(self.seen(stage, green=True), ((version, "green"),) * 3 if version else (503, 503, None))

    def processes(self, service="foobar"):
        """Slots whose process runs. Asked by its own user: in a container root may not see another's folder."""
        look = "for p in $(pgrep -u deploy -f 'serve[.]py'); do readlink /proc/$p/cwd; done"
        return [path for path in docker("exec", "--user", "deploy", self.target, "sh", "-c", look).stdout.split() if service in path]

    @contextlib.contextmanager
    def watched(self, stage):
        """A client that asks all the time: it is always answered, and never by a frontend and a backend that do not belong together."""
        end, answers, errors = threading.Event(), [], []

        def ask():
            try:
                while not end.wait(0.02):
                    answers.append(self.get(stage, FRONTEND))
            except Exception as error:
                errors.append(error)

        client = threading.Thread(target=ask)
        client.start()
        try:
            yield answers
        finally:
            end.set()
            client.join()
        self.assertEqual(errors, [])
        self.assertGreater(len(answers), 0, "the client has never asked")
        self.assertEqual([answer for answer in answers if not isinstance(answer, dict)], [])
        self.assertEqual([answer for answer in answers if answer["version"] != answer["backend"].get("version")], [])

    # --- tests

    def test_blue_green_all_or_none(self):
        stage = "hardening"
        first = Release(stage, "blue_green", backend="1.0", frontend="1.0")
        self.deploy(first)
        self.assertEqual(self.seen(stage), (503, 503, None))
        self.switch(first)
        self.assert_blue(stage, "1.0")

        second = Release(stage, "blue_green", first, backend="2.0", frontend="2.0")
        with self.watched(stage):
            outputs = self.deploy(second)
            self.assertEqual(outputs[FRONTEND]["test_uri"], f"http://hardening.foo.test:{PORTS[stage] + TESTS}/{FRONTEND}/")
            self.assert_blue(stage, "1.0")
            self.assert_green(stage, "2.0")
            said, _outputs = self.run_app("foo-performance-tests", second, "performance-tests")
            self.assertIn("the green frontend 2.0 has asked the green backend 2.0", said)
            # Repeated, it is left alone.
            before = self.on_target("cat /srv/services/*/*/*/pid")
            self.deploy(second)
            self.assertEqual(self.on_target("cat /srv/services/*/*/*/pid"), before)
            # Undone before the switch, nobody has noticed.
            self.undo(second)
            self.assert_green(stage, None)
            self.assert_blue(stage, "1.0")
            self.assertEqual(len(self.processes()), 2)

        third = Release(stage, "blue_green", first, backend="3.0", frontend="3.0")
        with self.watched(stage) as answers:
            self.deploy(third)
            _output, outputs = self.switch(third)
            self.assertEqual(outputs["switched"], {BACKEND: "3.0", FRONTEND: "3.0"})
        self.assertEqual({answer["version"] for answer in answers}, {"1.0", "3.0"})
        self.assert_blue(stage, "3.0")
        self.assert_green(stage, None)
        self.assertEqual(len(self.processes()), 2)
        self.switch(third)
        self.assert_blue(stage, "3.0")

        self.undo(third)
        self.assert_blue(stage, "1.0")
        self.undo(third)
        self.assert_blue(stage, "1.0")
        self.assertEqual(len(self.processes()), 2)
        self.all_are_switched_or_none(stage, first)

    def test_what_has_died(self):
        stage = "hardening"
        first = Release(stage, "blue_green", backend="1.0", frontend="1.0")
        self.deploy(first)
        # What has died is started anew, the proxy as well.
        self.on_target("pkill -KILL -u deploy -f serve.py; pkill -KILL -u deploy nginx; while pgrep -u deploy nginx; do sleep 0.05; done")
        self.deploy(first)
        self.assert_green(stage, "1.0")
        # Another release replaces what was never switched nor undone.
        second = Release(stage, "blue_green", backend="2.0", frontend="2.0")
        self.deploy(second)
        self.assert_green(stage, "2.0")
        self.assertEqual(len(self.processes()), 2)
        # Where there was nothing before, there is nothing to put back.
        self.switch(second)
        self.assert_blue(stage, "2.0")
        self.undo(second)
        self.assertEqual(self.seen(stage), (503, 503, None))
        self.assertEqual(self.processes(), [])

    def all_are_switched_or_none(self, stage, first):
        second = Release(stage, "blue_green", first, backend="2.0", frontend="2.0-broken")
        self.deploy(second, fails=[FRONTEND], proxy_retries=1)
        self.assertIn("what was live before is live", self.said[FRONTEND])
        # Green is not answered by blue, not even while its own is missing.
        self.assertEqual(self.seen(stage, green=True), (("2.0", "green"), 503, None))
        output, _outputs = self.switch(second, code=2)
        self.assertIn(f"is there of {FRONTEND}; nothing was switched", output)
        self.assert_blue(stage, "1.0")
        self.undo(second)
        self.assert_blue(stage, "1.0")
        self.assert_green(stage, None)

        # A configuration that nginx does not accept, and one that it accepts and cannot take: port 80 is taken.
        third = Release(stage, "blue_green", first, backend="3.0", frontend="3.0")
        self.deploy(third)
        for broken, words in (
            ({"proxy_port": 99999}, "nginx does not accept the new configuration"),
            ({"proxy_port": 80}, "nginx did not take the new configuration"),
        ):
            before = self.on_target("cat /srv/proxy/*/nginx.conf")
            output, _outputs = self.switch(third, code=2, **broken)
            self.assertIn(words, output)
            self.assertEqual(self.on_target("cat /srv/proxy/*/nginx.conf"), before)
            self.assert_blue(stage, "1.0")
            self.assert_green(stage, "3.0")
        self.switch(third)
        self.assert_blue(stage, "3.0")

    def test_canary(self):
        stage, key = "production", {"proxy_split_key": "$http_x_client"}
        first = Release(stage, "direct", backend="1.0", frontend="1.0")
        self.deploy(first, **key)
        self.assert_blue(stage, "1.0")

        def shares(release, share):
            """Clients by what they see, once the job of each service has given it `share` percent."""
            with self.watched(stage):
                self.deploy(release, more={"share": share}, **key)
            clients = collections.defaultdict(set)
            for number in range(400):
                # The frontend says what its backend is; whether the backend itself is that of the same version, a few ask.
                frontend = self.get(stage, FRONTEND, X_Client=f"client-{number}")
                versions = {frontend["version"], frontend["backend"]["version"]}
                if number < 40:
                    versions.add(self.get(stage, BACKEND, X_Client=f"client-{number}")["version"])
                self.assertEqual(len(versions), 1, "one client, one version of everything")
                clients[versions.pop()].add(number)
            return clients

        second = Release(stage, "canary", first, backend="2.0", frontend="2.0")
        few = shares(second, 10)["2.0"]
        pids = self.on_target("cat /srv/services/*/*/*/pid")
        half = shares(second, 50)["2.0"]
        # The hash is the same in every run; these bounds are for whoever changes the clients.
        self.assertTrue(15 <= len(few) <= 70, len(few))
        self.assertTrue(150 <= len(half) <= 250, len(half))
        self.assertLess(few, half)
        self.assertEqual(self.on_target("cat /srv/services/*/*/*/pid"), pids)
        with self.watched(stage):
            self.undo(second, **key)
        self.assert_blue(stage, "1.0")
        self.assertEqual(len(self.processes()), 2)

        third = Release(stage, "canary", first, backend="3.0", frontend="3.0")
        self.assertEqual(set(shares(third, 100)), {"3.0"})
        self.assert_blue(stage, "3.0")
        self.assertEqual(len(self.processes()), 2)
        self.undo(third, **key)
        self.assert_blue(stage, "1.0")

    def test_direct(self):
        stage = "dev"
        first = Release(stage, "direct", backend="1.0")
        outputs = self.deploy(first)
        self.assertEqual(outputs[BACKEND]["uri"], f"http://dev.foo.test:{PORTS[stage]}/{BACKEND}/")
        self.run_app("foo-functional-tests", first, "functional-tests")
        self.switch(first)  # a direct deployment is live already
        self.assertEqual(self.get(stage, BACKEND)["version"], "1.0")
        other = Release(stage, "direct", frontend="0.9")
        self.deploy(other)
        self.assertEqual(self.seen(stage), (("1.0", "blue"), ("0.9", "blue"), ("1.0", "blue")))

        broken = Release(stage, "direct", first, backend="2.0-broken")
        self.deploy(broken, fails=[BACKEND], proxy_retries=1)
        self.assertIn("what was live before is live", self.said[BACKEND])
        self.assertEqual(len(self.processes()), 2)
        self.undo(broken)
        self.assertEqual(self.get(stage, BACKEND)["version"], "1.0")
        second = Release(stage, "direct", first, backend="2.0")
        self.deploy(second)
        self.assertEqual(self.seen(stage), (("2.0", "blue"), ("0.9", "blue"), ("2.0", "blue")))
        self.assertEqual(len(self.processes(BACKEND)), 1)
        self.undo(second)
        self.assertEqual(self.get(stage, BACKEND)["version"], "1.0")
        self.undo(other)
        self.assertEqual(self.get(stage, FRONTEND), 503)
        self.assertEqual(len(self.processes()), 1)
        self.assertEqual(self.get(stage, BACKEND)["version"], "1.0")

    def test_a_job_that_was_overtaken_changes_nothing(self):
        release = Release("dev", "direct", backend="1.0")
        self.deploy(release)
        (live,) = self.processes()
        fence = self.fence
        late = Release("dev", "direct", release, backend="2.0-broken").variables("deploy", BACKEND)
        with concurrent.futures.ThreadPoolExecutor() as threads:
            job = threads.submit(self.run_job, "backend-dev", variables={**late, "proxy_retries": 20})
            try:
                # It has passed the fence, and asks in vain whether its version is healthy.
                wait_for("the new version", lambda: len(self.processes()) == 2 or job.done(), 120)
            finally:
                newer = json.dumps({"fence": fence + 100, "job": "newer"})
                docker("exec", "--user", "deploy", self.target, "sh", "-c", f"echo '{newer}' >/var/lib/lockstep/fence/backend-dev.json")
            code, output, _job = job.result()
        self.assertEqual(code, 2, output)
        self.assertIn("no longer that of this host", " ".join(output.split()))
        # What it has started may be the newer job's own by now, so it is left as well.
        self.assertIn(live, self.processes())
        self.assertEqual(len(self.processes()), 2)
        self.assertEqual(self.get("dev", BACKEND)["version"], "1.0")

    def test_tests_and_evaluation_of_the_example(self):
        stage = "hardening"
        release = Release(stage, "blue_green", backend="1.0", frontend="1.0-slow")
        self.deploy(release)
        # Versions that are not those of green.
        release.versions = {BACKEND: "2.0", FRONTEND: "1.0-slow"}
        output, _outputs = self.run_app("foo-performance-tests", release, "performance-tests", code=2)
        self.assertIn("foobar-backend answered", output)
        self.assertEqual(self.run_app("foo-evaluation", release, "evaluation")[1], {"result": "warning", "slow": [FRONTEND]})
        fast = Release(stage, "blue_green", backend="{{ 1 }}", frontend="1.0")
        self.assertEqual(self.run_app("foo-evaluation", fast, "evaluation")[1], {})

    def test_the_list_of_apps_is_that_of_the_inventories(self):
        body = json.loads(docker("run", "--rm", "--label", LABEL, "-v", f"{EXAMPLE}/inventories:/ansible/inventories:ro",
            "--entrypoint", "/ansible/bin/announce_apps.py", RUNNER, "--print").stdout)  # fmt: skip
        listed = json.loads((EXAMPLE / "apps.json").read_text(encoding="utf-8"))
        self.assertEqual([{"action": "app-deploy", **app} for app in body], listed)


def load_tests(loader, standard, _pattern):
    """One half of them, if LOCKSTEP_TEST_HALF is 0 or 1: each has a target of its own, and they run at the same time."""
    half = os.environ.get("LOCKSTEP_TEST_HALF")
    if half:
        names = loader.getTestCaseNames(Releases)
        # About as many jobs as in all others.
        first = [names.pop(names.index(name)) for name in ("test_blue_green_all_or_none", "test_tests_and_evaluation_of_the_example")]
        standard = unittest.TestSuite(map(Releases, names if int(half) else first))
    return standard


if __name__ == "__main__":
    unittest.main()
