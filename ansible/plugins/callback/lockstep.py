"""Tells the dispatcher how a run goes: play, task, count, recap, failures and what set_stats set.

    Ansible's events ──► State (pure) ──► Reporter: keeps the latest state, one thread posts it

Nothing here may fail or slow a run. Ansible's thread only ever replaces the state that is to be sent; what the thread
could not send in time is overtaken by what came after. At the end the last state gets FLUSH seconds; then it is left in a file,
which the dispatcher reads from the ended container where something depends on it.
Without LOCKSTEP_URL (a run by hand) the plugin is silent.
"""

import copy
import http.client
import json
import os
import ssl
import threading
import time
import urllib.parse

from ansible.executor.stats import AggregateStats
from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: lockstep
type: notification
short_description: reports the progress of a run to the Lockstep dispatcher
description:
  - Posts play, task, number of tasks, recap per host, failures and the data of set_stats to the progress endpoint of the job.
  - Best effort. A dispatcher that is slow or down neither fails nor slows the run.
requirements:
  - the environment and the files that the dispatcher gives to a runner container
"""

RUN = os.environ.get("LOCKSTEP_RUN_DIR", "/run/lockstep")
LEFT = os.path.join(RUN, "report.json")  # where the last report is left

INTERVAL = 0.2  # seconds between the beginnings of two posts
TIMEOUT = 2.0  # seconds for connecting, and for each wait on the connection
LONGEST_PAUSE = 5.0  # seconds after repeated trouble
FLUSH = 2.0  # seconds that the end of the run waits for the last state

LARGEST_BODY = 64 * 1024  # bytes, the endpoint's own limit
LONGEST_MESSAGE = 2000  # characters of a failure's message
LONGEST_NAME = 300  # characters of a play, task or host
MOST_FAILURES = 50

COUNTS = ("ok", "changed", "unreachable", "failed", "skipped", "rescued", "ignored")


def short(text, limit):
    text = str(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def message_of(result):
    """What went wrong, in one text. Ansible has emptied results of no_log tasks before callbacks see them."""
    if "censored" in result:
        return "hidden: the task has no_log"
    failed_items = [item for item in result.get("results") or [] if isinstance(item, dict) and item.get("failed")]
    if failed_items:
        return "; ".join(message_of(item) for item in failed_items[:3])
    for key in ("msg", "stderr", "module_stderr", "module_stdout", "reason"):
        if result.get(key):
            first = str(result[key])
            break
    else:
        first = "failed without a message"
    if result.get("stderr") and first == "non-zero return code":
        first = "%s: %s" % (first, result["stderr"])
    first = first.strip()
    # What is wrong stands at the beginning, or at the end of what a program has said.
    half = LONGEST_MESSAGE // 2
    if len(first) <= LONGEST_MESSAGE:
        return first
    # The end begins with a whole line, or word: a part of something secret would not be known for that.
    end = first[-half:]
    return first[: half - 3] + "\n…\n" + (end.partition("\n")[2] or end.partition(" ")[2] or end)


def encode(state):
    """The state as JSON of at most LARGEST_BODY bytes: outputs go first, then failures, then hosts without trouble."""

    def body(fields):
        return json.dumps(fields, ensure_ascii=False, default=str).encode("utf-8", "replace")

    encoded = body(state)
    if len(encoded) <= LARGEST_BODY:
        return encoded
    state = dict(state)
    if len(body(state.get("outputs", {}))) > LARGEST_BODY // 2:
        state["outputs"] = {"omitted": "set_stats data of more than %d bytes is not reported" % (LARGEST_BODY // 2)}
    state["failures"] = [dict(item, message=short(item["message"], 300)) for item in state.get("failures", [])[:20]]
    encoded = body(state)
    if len(encoded) <= LARGEST_BODY:
        return encoded
    troubled = {host: counts for host, counts in state.get("recap", {}).items() if counts["failed"] or counts["unreachable"]}
    state["recap"] = dict(list(troubled.items())[:20])
    encoded = body(state)
    return encoded if len(encoded) <= LARGEST_BODY else body({"tasks_done": state.get("tasks_done", 0)})


class State:
    """What is known about the run."""

    def __init__(self):
        self.play = self.task = ""
        self.tasks_done = 0
        self.task_open = False
        self.recap = {}
        self.failures = []
        self.custom = AggregateStats()

    def begin_task(self, name):
        self.end_task()
        self.task, self.task_open = short(name, LONGEST_NAME), True

    def end_task(self):
        self.tasks_done += self.task_open
        self.task_open = False

    def count(self, host, *what):
        counts = self.recap.setdefault(short(host, LONGEST_NAME), dict.fromkeys(COUNTS, 0))
        for name in what:
            counts[name] += 1

    def failure(self, host, task, result):
        if len(self.failures) < MOST_FAILURES:
            entry = {"host": short(host, LONGEST_NAME), "task": short(task, LONGEST_NAME), "message": message_of(result)}
            self.failures.append(entry)

    def add_outputs(self, host, result):
        """The data of set_stats, joined as Ansible joins it for its own summary."""
        for item in [result] + [item for item in result.get("results") or [] if isinstance(item, dict)]:
            stats = item.get("ansible_stats")
            if not isinstance(stats, dict):
                continue
            add = self.custom.update_custom_stats if stats.get("aggregate", True) else self.custom.set_custom_stats
            for key, value in (stats.get("data") or {}).items():
                add(str(key), copy.deepcopy(value), host if stats.get("per_host") else None)

    def finish(self, stats):
        """Ansible's own final numbers. Failures of hosts that came through after all were rescued: they are none."""
        self.end_task()
        self.recap = {}
        for host in sorted(stats.processed):
            numbers = stats.summarize(host)
            numbers["failed"] = numbers.pop("failures")
            self.recap[short(host, LONGEST_NAME)] = {name: numbers[name] for name in COUNTS}
        failed = {host for host, counts in self.recap.items() if counts["failed"] or counts["unreachable"]}
        self.failures = [item for item in self.failures if item["host"] in failed]

    def report(self):
        """A copy that later events do not change."""
        report = {
            "play": self.play,
            "task": self.task,
            "tasks_done": self.tasks_done,
            "recap": {host: dict(counts) for host, counts in self.recap.items()},
            "failures": list(self.failures),
        }
        outputs = dict(self.custom.custom.get("_run", {}))
        per_host = {host: data for host, data in self.custom.custom.items() if host != "_run"}
        if per_host:
            outputs["per_host"] = per_host
        if outputs:
            report["outputs"] = copy.deepcopy(outputs)
        return report


class Reporter:
    """Posts the latest state from a thread of its own."""

    def __init__(self, url, job, token, ca_cert):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme != "https" or not parts.hostname:
            raise ValueError("LOCKSTEP_URL is not an https address")
        self.host, self.port = parts.hostname, parts.port or 443
        self.path = "%s/api/v1/jobs/%s/progress" % (parts.path.rstrip("/"), job)
        self.headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
        self.context = ssl.create_default_context()
        self.context.load_verify_locations(cafile=ca_cert)
        self.connection = None
        self.changed = threading.Condition()
        self.latest = None
        self.offered = self.delivered = 0
        self.finishing = False
        # A daemon: Ansible's exit never waits for it.
        threading.Thread(target=self.run, name="lockstep-progress", daemon=True).start()

    def offer(self, report):
        with self.changed:
            self.latest = report
            self.offered += 1
            self.changed.notify_all()

    def flush(self):
        """Waits until the latest state was delivered, at most FLUSH seconds. One that was not is left for the dispatcher."""
        with self.changed:
            self.finishing = True
            self.changed.notify_all()
            if self.changed.wait_for(lambda: self.delivered == self.offered, FLUSH):
                return
            report = encode(self.latest)
        try:
            # The dispatcher has put it there, empty; nobody else may make a file in that folder.
            with open(LEFT, "r+b") as file:
                file.write(report)
        except OSError:  # an older dispatcher, which reads none
            pass

    def run(self):
        trouble = 0
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.delivered != self.offered)
                number, report = self.offered, self.latest
            began = time.monotonic()
            try:
                self.post(encode(report))
                trouble = 0
                with self.changed:
                    self.delivered = max(self.delivered, number)
                    self.changed.notify_all()
            except Exception:  # best effort, whatever it is
                trouble += 1
                self.disconnect()
            pause = min(INTERVAL * 2 ** min(trouble, 10), LONGEST_PAUSE) if trouble else INTERVAL
            with self.changed:
                # The end of the run cuts a pause short, but not the one between two posts.
                self.changed.wait_for(lambda: self.finishing, max(0, began + pause - time.monotonic()))
                finishing = self.finishing
            if finishing:
                time.sleep(max(0, began + INTERVAL - time.monotonic()))

    def post(self, body):
        if self.connection is None:
            self.connection = http.client.HTTPSConnection(self.host, self.port, timeout=TIMEOUT, context=self.context)
        self.connection.request("POST", self.path, body, self.headers)
        answer = self.connection.getresponse()
        answer.read(LARGEST_BODY)
        if answer.status >= 300:
            raise RuntimeError("answered %d" % answer.status)
        if not answer.isclosed():
            self.disconnect()

    def disconnect(self):
        connection, self.connection = self.connection, None
        if connection is not None:
            try:
                connection.close()
            except Exception:
                pass


def reporter_from_environment():
    """The reporter of this run, or None where there is nobody to report to."""
    url, job = os.environ.get("LOCKSTEP_URL"), os.environ.get("LOCKSTEP_JOB_ID")
    if not url or not job:
        return None
    with open(os.path.join(RUN, "token"), encoding="ascii") as file:
        token = file.read().strip()
    return Reporter(url, job, token, os.path.join(RUN, "ca.crt"))


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "lockstep"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.state = State()
        try:
            self.reporter = reporter_from_environment()
        except Exception as error:
            self.reporter = None
            self._display.warning("progress is not reported: %s" % error)
        if self.reporter is None:
            self.disabled = True

    def tell(self):
        self.reporter.offer(self.state.report())

    def v2_playbook_on_play_start(self, play):
        self.state.end_task()
        self.state.play = short(play.get_name().strip(), LONGEST_NAME)
        self.tell()

    def v2_playbook_on_task_start(self, task, is_conditional):
        self.state.begin_task(task.get_name().strip())
        self.tell()

    def v2_playbook_on_handler_task_start(self, task):
        self.v2_playbook_on_task_start(task, False)

    def v2_runner_on_ok(self, result):
        changed = bool(result._result.get("changed"))
        self.state.count(result._host.get_name(), "ok", *["changed"] * changed)
        self.state.add_outputs(result._host.get_name(), result._result)
        self.tell()

    def v2_runner_on_skipped(self, result):
        self.state.count(result._host.get_name(), "skipped")
        self.tell()

    def v2_runner_on_failed(self, result, ignore_errors=False):
        host = result._host.get_name()
        if ignore_errors:
            self.state.count(host, "ok", "ignored")
        else:
            self.state.count(host, "failed")
            self.state.failure(host, result.task_name, result._result)
        self.tell()

    def v2_runner_on_unreachable(self, result):
        host = result._host.get_name()
        self.state.count(host, "unreachable")
        self.state.failure(host, result.task_name, result._result)
        self.tell()

    def v2_playbook_on_stats(self, stats):
        self.state.finish(stats)
        self.tell()
        self.reporter.flush()
