#!/usr/bin/env python3
"""Asks Lockstep for a deployment from a CI job, follows it live, and exits with its outcome.

Run by action.yml (GitHub) and by templates/deploy.yml (GitLab), which holds a copy. It needs Python 3.9 and nothing else. Inputs
come by the environment, as LOCKSTEP_INPUT_<NAME>, never as arguments: everybody on a machine sees those.

    POST …/apps/{id}/jobs ─▶ GET …/jobs/{job}/output?offset=N&wait=S, again and again ─▶ GET …/jobs/{job} ─▶ exit code
      one Idempotency-Key      each answer says where it ends, so that a part which is
      for all repetitions      cut, repeated or missing is noticed and asked for again

Exit codes: 0 succeeded, 1 failed, canceled, timed out or lost, 2 wrong usage, 3 refused, 4 the input timeout passed while the job
goes on, 5 superseded by a newer request, 6 no answer, 128+N signal N.

What a job prints comes from the hosts that are deployed to and is not trusted: it can neither give commands to the reader of the log
nor do more to a terminal than colour it.
"""

from __future__ import annotations

import base64
import codecs
import html
import http.client
import json
import os
import random
import re
import secrets
import signal
import ssl
import sys
import time
import urllib.error
import urllib.request
from urllib.parse import quote, urlencode, urlsplit

CALL = 15  # seconds that one answer may take
WAIT = 25  # seconds that the dispatcher may hold a question for output that is not there yet
UNKNOWN = 30  # seconds that a job may be unknown, or its output too short, while the dispatcher's state is rebuilt
BARRED = 90  # the longest Retry-After of a 429 that is waited for, in seconds
TOKEN_AGE = 240  # seconds after which an ID token is fetched anew: GitHub's live about five minutes
COUNTS = ("ok", "changed", "unreachable", "failed", "skipped", "rescued", "ignored")
OUTCOMES = {"succeeded": 0, "failed": 1, "canceled": 1, "timed_out": 1, "lost": 1, "superseded": 5}
ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)(?:(?P<sgr>[0-9;:]{0,64}m)|[0-?]*[ -/]*[@-~]?)"  # of these, colour is kept
    r"|(?:\x1b[]PX^_]|[\x90\x98\x9d-\x9f])[^\x07\x9c\x1b]*(?:\x07|\x9c|\x1b\\)?"  # titles, links, the clipboard
    r"|\x1b[ -/]*[0-~]?|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)


class Stop(Exception):
    """The end before an outcome is known: exit code, and what happened."""

    def __init__(self, code: int, what: str) -> None:
        super().__init__(what)
        self.code = code


class Trouble(Exception):
    """A call without a usable answer. `passes`: the same question may well be answered later."""

    def __init__(self, what: str, code: int = 6, passes: bool = True, status: int = 0, after: float = 0) -> None:
        super().__init__(what)
        self.code, self.passes, self.status, self.after = code, passes, status, after


class Left(BaseException):
    """A signal came, or the own timeout passed. No Exception, so that nobody in between takes it for trouble."""


class Signals:
    """Signals and the own timeout, noticed only where something is waited for: never in the middle of a line."""

    def __init__(self) -> None:
        self.came, self.waiting = 0, False
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGALRM):
            signal.signal(number, self._take)

    def _take(self, number: int, _frame: object) -> None:
        self.came = self.came or number
        self._leave()

    def _leave(self) -> None:
        if self.waiting and self.came:
            self.waiting = False
            raise Left

    def __enter__(self) -> None:
        self.waiting = True
        self._leave()

    def __exit__(self, *_: object) -> None:
        self.waiting = False


def given(env: dict[str, str], name: str, default: str = "") -> str:
    """An input; CI systems hand one without a value over as an empty one."""
    return env.get(f"LOCKSTEP_INPUT_{name}", "").strip() or default


def seconds(text: str, name: str) -> int | None:
    found = re.fullmatch(r"([0-9]{1,6})([smhd])", text)
    if text and not found:
        raise Stop(2, f"{name} must be a number and s, m, h or d, as 30m")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]] if found else None


def lines(text: str) -> list[str]:
    """Text as lines that hold nothing but text, tabs and colour. A bare carriage return would overwrite its line."""
    return re.split(r"\r*\n|\r+", ESCAPES.sub(lambda found: f"\x1b[{found['sgr']}" if found["sgr"] else "", text))


def plain(text: object) -> str:
    """A text of the dispatcher's for one line of ours."""
    return re.sub(r"\x1b\[[0-9;:]*m", "", " ".join(lines(str(text)))).replace("##[", "# #[")


def escaped(text: str, more: str = "") -> str:
    """Text in a workflow command of GitHub's: its data or, with `more`, a property of it."""
    return re.sub(f"[%\r\n{more}]", lambda found: f"%{ord(found[0]):02X}", text)


def markdown(text: object) -> str:
    """Text that means nothing in Markdown but itself."""
    return re.sub(r"[!#$&*+/:<-@[-`{-~]", lambda found: f"&#{ord(found[0])};", plain(text))


class Log:
    """The CI's log in the dialect of its reader, the step's outputs and its summary."""

    def __init__(self, env: dict[str, str]) -> None:
        self.github, self.gitlab = env.get("GITHUB_ACTIONS") == "true", env.get("GITLAB_CI") == "true"
        self.outputs, self.summaries = env.get("GITHUB_OUTPUT") or env.get("LOCKSTEP_DOTENV"), env.get("GITHUB_STEP_SUMMARY")
        if self.outputs and not env.get("GITHUB_OUTPUT"):
            open(self.outputs, "w", encoding="utf-8").close()  # what an earlier job left in the folder is not this one's
        self.ends: list[str] = []  # what closes what is open, innermost last
        self.partial, self.decoder = "", codecs.getincrementaldecoder("utf-8")("replace")

    def put(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # whoever read the log has gone; the exit code is still wanted
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

    def say(self, text: str) -> None:
        self.put(f"lockstep: {text}")

    def shield(self) -> None:
        """From here to `close`, no line is a command to GitHub."""
        if self.github:
            token = secrets.token_hex(16)
            self.put(f"::stop-commands::{token}")
            self.ends.append(f"::{token}::")

    def group(self, title: str) -> None:
        if self.github:
            self.put(f"::group::{escaped(title)}")
            self.ends.append("::endgroup::")
        elif self.gitlab:
            name = f"lockstep_{secrets.token_hex(4)}"
            self.put(f"\x1b[0Ksection_start:{time.time():.0f}:{name}\r\x1b[0K{title}")
            self.ends.append(f"\x1b[0Ksection_end:{{:.0f}}:{name}\r\x1b[0K")
        self.shield()

    def output(self, piece: bytes, final: bool = False) -> None:
        """The job's output, by whole lines. `##[` is GitHub's older sign of a command, which its pages still format."""
        *whole, self.partial = (self.partial + self.decoder.decode(piece, final)).split("\n")
        if final and self.partial:
            whole, self.partial = [*whole, self.partial], ""
        for line in (part for line in whole for part in lines(line.rstrip("\r"))):
            line = line.replace("##[", "# #[") if self.github else line
            self.put(line + "\x1b[0m" if "\x1b" in line and not line.endswith("\x1b[0m") else line)

    def close(self) -> None:
        self.output(b"", final=True)
        while self.ends:
            self.put(self.ends.pop().format(time.time()))

    def error(self, title: str, message: str) -> None:
        if self.github:
            self.put(f"::error title={escaped(title, ':,')}::{escaped(message[:2000])}")
        else:
            text = f"{title}: {message}".replace("\n", "\n  ")
            self.put(f"\x1b[1;31m{text}\x1b[0m" if self.gitlab else text)

    def set(self, name: str, value: str) -> None:
        """An output of the step. Values are checked words: none can begin another output."""
        if self.outputs:
            with open(self.outputs, "a", encoding="utf-8") as file:
                file.write(f"{name}={value}\n" if self.github else f"LOCKSTEP_{name.upper()}={value}\n")

    def summary(self, *told: str) -> None:
        if self.summaries:
            with open(self.summaries, "a", encoding="utf-8") as file:
                file.write("\n".join(told) + "\n")


class NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect would carry the credential elsewhere."""

    def redirect_request(self, *_: object) -> None:
        return None


class Http:
    """Calls to the dispatcher: one address, one credential, one way to read errors."""

    def __init__(self, env: dict[str, str], log: Log, signals: Signals) -> None:
        self.env, self.log, self.signals = env, log, signals
        self.base, self.app = given(env, "URL").rstrip("/"), given(env, "DEPLOYMENT_ID")
        url = urlsplit(self.base)
        if url.scheme != "https" or not url.hostname or "@" in url.netloc or url.query or url.fragment:
            raise Stop(2, "url must be the dispatcher's address, as https://lockstep.example.org")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.app):
            raise Stop(2, "deployment-id must be made of letters, digits, dots, dashes and underscores")
        self.audience = given(env, "AUDIENCE", f"https://{re.sub(':443$', '', url.netloc.lower())}")
        secret = env.get("LOCKSTEP_INPUT_SECRET") or env.get(given(env, "SECRET_VARIABLE"), "")
        self.secret = secret.strip("\r\n")
        self.token, self.fetched = env.get("LOCKSTEP_ID_TOKEN", "").strip(), 0.0
        self.mask(self.secret)
        context = ssl.create_default_context()
        # Private authorities' certificates often lack what Python 3.13 began to insist on; other clients take them.
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if ca_cert := given(env, "CA_CERT"):
            try:
                context.load_verify_locations(ca_cert)
            except OSError as error:
                raise Stop(2, f"ca-cert: {plain(ca_cert)} is no file of certificates in PEM form: {error}") from None
        # Between here and this very machine there is no proxy, whatever the environment says.
        local = [urllib.request.ProxyHandler({})] if url.hostname in ("localhost", "127.0.0.1", "::1") else []
        self.opener = urllib.request.build_opener(NoRedirect, urllib.request.HTTPSHandler(context=context), *local)

    def mask(self, value: str) -> None:
        if value and self.log.github and not self.log.ends:
            self.log.put(f"::add-mask::{escaped(value)}")

    def authorization(self) -> str:
        if self.secret:
            return "Basic " + base64.b64encode(f"{self.app}:{self.secret}".encode()).decode()
        address, bearer = self.env.get("ACTIONS_ID_TOKEN_REQUEST_URL"), self.env.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
        if address and bearer and (not self.token or time.monotonic() - self.fetched > TOKEN_AGE):
            address += ("&" if "?" in address else "?") + urlencode({"audience": self.audience})
            request = urllib.request.Request(address, headers={"Authorization": f"Bearer {bearer}"})
            try:
                with self.signals, urllib.request.build_opener(NoRedirect).open(request, timeout=CALL) as answer:
                    self.token, self.fetched = json.loads(answer.read())["value"], time.monotonic()
            except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError) as error:
                raise Trouble(f"GitHub gave no ID token: {plain(error)}") from None
            self.mask(self.token)
        if not self.token:
            raise Stop(2, "there is neither a secret nor an ID token. Give the input secret, or let the job have an ID token: "
                       "permissions: id-token: write" if self.log.github else
                       "there is neither a secret in the variable that the input secret-variable names, nor an ID token")
        return f"Bearer {self.token}"

    def call(self, method: str, *path: str, query: dict | None = None, limit: float = CALL, key: str = "",
             body: object = None) -> tuple[bytes, http.client.HTTPMessage]:
        """One call under /api/v1; body and headers of an answer of status 2xx."""
        headers = {"Authorization": self.authorization(), "User-Agent": "lockstep-ci", "Cache-Control": "no-store"}
        if key:
            headers.update({"Content-Type": "application/json", "Idempotency-Key": key})
        url = "/".join([self.base, "api/v1", *(quote(part, safe="") for part in path)])
        data = json.dumps(body).encode() if body else None
        request = urllib.request.Request(url + (f"?{urlencode(query)}" if query else ""), data, headers, method=method)
        try:
            with self.signals, self.opener.open(request, timeout=limit) as answer:
                return answer.read(), answer.headers
        except urllib.error.HTTPError as error:
            raise self.refusal(error) from None
        except (OSError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            if isinstance(cause, ssl.SSLCertVerificationError):
                why = f"the certificate of {self.base} is not trusted ({plain(cause.verify_message)}): see the input ca-cert"
                raise Trouble(why, 2, False) from None
            raise Trouble(f"{self.base} could not be reached: {plain(cause) or type(cause).__name__}") from None

    def refusal(self, error: urllib.error.HTTPError) -> Trouble:
        status, after = error.code, error.headers.get("Retry-After", "")
        wait = float(after) if re.fullmatch("[0-9]{1,6}", after) else 0
        try:
            with self.signals:
                problem = json.loads(error.read())
            if not problem["type"].startswith("urn:lockstep:error:"):
                raise ValueError
        except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError):
            passes = status >= 500 or status == 429
            return Trouble(f"{self.base} answered HTTP {status}, but not as Lockstep does", 6 if passes else 2, passes, 0, wait)
        what = plain(f"{problem.get('title')}: {problem.get('detail')}")
        what += f" (job {plain(problem['job_id'])})" if problem.get("job_id") else ""
        code = 3 if status in (401, 403, 409, 429) else 2 if status < 500 and status != 408 else 6
        return Trouble(what, code, status in (408, 429, 500, 502, 503, 504), status, wait)

    def job(self, *path: str, **more: object) -> dict:
        """A call whose answer is a job of this app's."""
        answer, _ = self.call(*path, **more)
        try:
            found = json.loads(answer)
            right = found["deployment_id"] == self.app and re.fullmatch("[0-9A-HJKMNP-TV-Z]{26}", found["job_id"])
            if right and (path[1] == "apps" or found["job_id"] == path[2]):
                return found
        except (ValueError, LookupError, TypeError):
            pass
        raise Trouble(f"the answer of {self.base} makes no sense")

    def pause(self, failures: int, least: float) -> float:
        """Doubled each time, and up to a half shorter at random, so that not all come back at once."""
        return max(min(0.1 * 2 ** min(failures, 10), 5) * random.uniform(0.5, 1), least)

    def sleep(self, length: float) -> None:
        with self.signals:
            time.sleep(length)


def submit(api: Http, request: dict, key: str, patience: float) -> dict:
    """Asks until there is an answer. Repeating is harmless: requests with one key are one request."""
    until, failures, barred = time.monotonic() + patience, 0, False
    while True:
        try:
            return api.job("POST", "apps", api.app, "jobs", body=request, key=key)
        except Trouble as trouble:
            now, wait = time.monotonic(), api.pause(failures, trouble.after)
            if trouble.status == 429 and not barred and wait <= BARRED:
                barred, until = True, max(until, now + wait + CALL)
            if not trouble.passes or now + wait >= until:
                raise Stop(trouble.code, f"the deployment of {api.app}: {trouble}") from None
            failures += 1
            if failures == 2 or wait > 5:
                api.log.say(f"{trouble}; trying again")
            api.sleep(wait)


def standing(job: dict) -> str:
    """Where a job is and what it does, in a few words."""
    progress, place = job.get("progress") or {}, job.get("queue_position")
    doing = f", task {progress.get('tasks_done', '')}: {progress['task']}" if progress.get("task") else ""
    return plain(f"{job.get('outcome') or job.get('state')}{f', number {place} in line' if place else ''}{doing}")


def follow(api: Http, job: str, said: str, patience: float) -> dict:
    """Shows the output, each byte once, and returns the job when it has ended."""
    offset, failures, since, heard = 0, 0, 0.0, time.monotonic()
    while True:
        try:
            body, headers = api.call("GET", "jobs", job, "output", query={"offset": offset, "wait": WAIT}, limit=WAIT + CALL)
            end = headers.get("Lockstep-Next-Offset", "")
            # Where it begins follows from where it ends: an answer to an older question is cut, never shown twice.
            skip = offset - (int(end) - len(body)) if end.isdecimal() else -1
            if not 0 <= skip <= len(body):
                raise Trouble(f"asked for output at byte {offset}, {api.base} answered with something else")
            api.log.output(body[skip:])
            offset += len(body) - skip
            if headers.get("Lockstep-Output-Complete") == "true":
                found = api.job("GET", "jobs", job)
                if found.get("outcome") in OUTCOMES and found.get("output_bytes", 0) <= offset:
                    return found
                raise Trouble("the output is said to be complete, and the job not to be over")
            if len(body) > skip:
                heard = time.monotonic()
            elif time.monotonic() - heard > WAIT - 5 and not api.log.partial:
                heard, now = time.monotonic(), standing(api.job("GET", "jobs", job))
                if now != said:
                    api.log.say(said := now)
            if failures > 1:
                api.log.say("the dispatcher answers again")
            failures = 0
        except Trouble as trouble:
            # After a lost memory an ended job may have less output than was shown; how it ended is known all the same.
            found = over(api, job) if trouble.status == 416 else None
            if found:
                return found
            now, wait = time.monotonic(), api.pause(failures, min(trouble.after, 60))
            since = since if failures else now
            # A proxy may answer with anything while the dispatcher behind it is away, and a certificate may be changing.
            final = 400 <= trouble.status < 500 and trouble.status not in (404, 408, 416, 429)
            if final or now + wait > since + (min(patience, UNKNOWN) if trouble.status in (404, 416) else patience):
                code = {401: 3, 403: 3, 404: 1}.get(trouble.status, 6)
                raise Stop(code, f"job {job}: {trouble}; its outcome is not known here, and it may go on") from None
            failures += 1
            if failures == 2:
                api.log.say(f"{trouble}; trying again")
            api.sleep(wait)


def over(api: Api, job: str) -> dict | None:
    """The job, if it can be asked for and has ended."""
    try:
        found = api.job("GET", "jobs", job)
    except Trouble:
        return None
    return found if found.get("outcome") in OUTCOMES else None


def conclude(log: Log, job: dict) -> int:
    """Says how the job ended: in the log, as annotations, in the summary, by the exit code."""
    outcome, progress = job["outcome"], job.get("progress") or {}
    head = f"{outcome}: {job['deployment_id']} on {job.get('inventory')}"
    head += f", exit code {job['exit_code']}" if "exit_code" in job else ""
    head += f" (job {job['job_id']})" + (f": {job['reason']}" if job.get("reason") else "")
    head += f"; job {job['superseded_by']} took its place" if job.get("superseded_by") else ""
    head += "; nobody saw its exit code: look at the hosts before you deploy again" if outcome == "lost" else ""
    head, told = plain(head), [f"### Lockstep: {markdown(job['deployment_id'])} {outcome.replace('_', ' ')}", "", markdown(head)]
    recap = {plain(host): [str(counts.get(name, 0)) for name in COUNTS] for host, counts in (progress.get("recap") or {}).items()}
    log.shield()
    if recap:
        wide = max(map(len, recap))
        told += ["", f"| host | {' | '.join(COUNTS)} |", "|---|" + "---:|" * len(COUNTS)]
        log.put("  ".join(["host".ljust(wide), *COUNTS]))
        for host, counts in recap.items():
            log.put("  ".join([host.ljust(wide), *(cell.rjust(len(name)) for name, cell in zip(COUNTS, counts))]))
            told.append(f"| {markdown(host)} | {' | '.join(counts)} |")
    log.put(head)
    log.close()
    failures = progress.get("failures") or []
    for failure in failures[:10]:  # GitHub shows no more of one step
        title = plain(f"Task \"{failure['task']}\" failed on {failure['host']}")
        message = "\n".join(map(plain, lines(failure["message"])))
        log.error(title, message)
        told += ["", markdown(title), "", f"<pre>{html.escape(message)}</pre>"]
    if outcome != "succeeded" and not failures:
        log.error(f"Deployment {outcome}", head)
    log.set("outcome", outcome)
    log.summary(*told)
    return OUTCOMES[outcome]


def leave(api: Http, job: str, cancel: bool) -> int:
    """The CI job ends before the deployment does: says so, or ends that too."""
    number = api.signals.came
    why = "interrupted" if number != signal.SIGALRM else "not over within the input timeout"
    goes_on = f"{why}; job {job} goes on. To end it: lockstep cancel {job} --app {api.app} --url {api.base}"
    if cancel and number != signal.SIGALRM:
        api.signals.came = 0
        try:
            goes_on = f"{why}; job {job} is asked to end: {standing(api.job('POST', 'jobs', job, 'cancel', limit=5))}"
        except (Trouble, Left) as error:
            goes_on += f" (it could not be canceled from here: {error})"
    api.log.error("Deployment not awaited", goes_on)
    api.log.summary(f"### Lockstep: {markdown(api.app)}", "", markdown(goes_on))
    return 4 if number == signal.SIGALRM else 128 + number


def deploy(env: dict[str, str], log: Log) -> int:
    timeout, patience = seconds(given(env, "TIMEOUT"), "timeout"), seconds(given(env, "PATIENCE", "2m"), "patience") or 0
    try:
        request = {"vars": json.loads(given(env, "VARS", "{}")), "when_busy": given(env, "WHEN_BUSY", "queue")}
    except ValueError:
        request = {"vars": None}
    if not isinstance(request["vars"], dict):  # not the error's own words: they may repeat a value
        raise Stop(2, 'vars must be a JSON object, as {"version": "1.2.3"}')
    cancel = given(env, "CANCEL_ON_SIGNAL", "false")
    if request["when_busy"] not in ("queue", "fifo", "reject") or cancel not in ("true", "false"):
        raise Stop(2, "when-busy must be queue, fifo or reject; cancel-on-signal must be true or false")
    signals, key, job = Signals(), secrets.token_hex(16), ""
    api = Http(env, log, signals)
    try:
        accepted = submit(api, request, key, patience)
        job = accepted["job_id"]
        log.set("job_id", job)
        signal.setitimer(signal.ITIMER_REAL, 0 if timeout is None else timeout or 0.001)
        log.group(f"Lockstep: {api.app} on {plain(accepted.get('inventory'))}, job {job}")
        log.say(f"job {job} accepted: {standing(accepted)}")
        ended = follow(api, job, standing(accepted), patience)
        log.close()
        return conclude(log, ended)
    except Left:
        log.close()
        if job:
            return leave(api, job, cancel == "true")
        what = "interrupted before the answer came: the deployment may have been accepted all the same, by the Idempotency-Key"
        raise Stop(128 + signals.came, f"{what} {key}") from None


def main() -> int:
    sys.stdout.reconfigure(encoding="utf-8", errors="replace")
    env = dict(os.environ)
    log = Log(env)
    try:
        return deploy(env, log)
    except Stop as stop:
        log.close()
        log.error("Lockstep", str(stop))
        return stop.code


if __name__ == "__main__":
    sys.exit(main())
