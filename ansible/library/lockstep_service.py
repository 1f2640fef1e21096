#!/usr/bin/python3
"""A service of an order on its host: a folder, a process that a supervisor keeps running, and the releases that it ran.

    <root>/supervise/<id>         link to the unit; what `runsvdir` of this environment and mode looks after
    <root>/services/<id>/         nobody else may look into it
        secrets.env               variables, as the shell reads them
        port                      see lockstep_ports
        unit/                     what `runsv` reads: the same for all services and releases
        current, before           links to the release that runs, and to the one that did
        <commit>-<fence>/         a release: files/, environment.env, build.log, start, check (port and health path), and `digest` once it has answered
        log/current               what it has said

    change     does
    look       starts the supervisor of all services, unless it runs: after a reboot; says what is gone of what is recorded
    secrets    writes the variables
    compare    says whether what is asked for runs already and answers, and whether its variables are there
    stage      makes the folder of a new release, with its environment
    build      builds the files of the release, without the lock of the service: should its job be ended, the next one ends it
    start      stops what runs, starts the release, and waits for its answer; where there is none, puts back what ran before
    remove     stops the service and removes its folder

A release holds its own copy of the environment, secrets among it: what is put back is what ran. Nothing of it is ever on a command line. A
release that has not answered has no `digest`, and is never gone back to.

Each process is started in a session of its own and ended with everything in it, and with whatever has left that session and still bears the
mark of its environment or writes to its log, so that nothing stays behind that keeps the port.
"""

import contextlib
import hashlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time

from ansible.module_utils.lockstep_host import (
    Refused, bears, compare_fence, link_target, listener, locked, mark_of, put, read, read_from, stat_of, switch, wait, who_listens,
)  # fmt: skip
from ansible.module_utils.lockstep_type import PATH, build_steps, needed, nginx_conf, public_folder, serves_files, start_script

DOCUMENTATION = r"""
module: lockstep_service
short_description: Deploys and removes a service of an order on its host
options:
  change: {description: "See the top of the file.", type: str, required: true}
  root: {description: Folder of this environment and mode on the host., type: path, required: true}
  service: {description: The id of the service., type: str, required: true}
  secrets: {description: Variables to write., type: dict}
  recorded: {description: "Of each service of this host: service, port, variables and commit, or null.", type: list, elements: dict}
  variables: {description: Names of the variables that are to be there., type: list, elements: str}
  type: {description: "node, python, angular or static.", type: str}
  port: {description: Where it listens., type: int}
  health: {description: The path that answers once it serves., type: str, default: /}
  commit: {description: Full commit id., type: str}
  environment: {description: Variables that are no secrets., type: dict}
  release: {description: Name of the folder of the release., type: str}
  digest: {description: What compare has said., type: str}
  tries: {description: How often the health path is asked for; each half a second., type: int, default: 40}
  fence: {description: "The job and its fence: path, fence and job.", type: dict, required: true}
"""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
COMMIT = re.compile(r"[0-9a-f]{40}")
RELEASE = re.compile(r"[0-9a-f]{40}-[0-9]+([.][0-9]+)?")
LOCK_WAIT = 60  # seconds
STOP_WAIT = 15  # seconds for a process to end before it is killed; what it has started is given as long once it is gone
END_WAIT = STOP_WAIT + 5  # seconds for `finish`
SUPERVISOR_WAIT = 20  # seconds; runsvdir looks every 5 s,
SUPERVISOR_LOOK = 7  # so that one which has just begun has looked
PAUSE = 0.5  # seconds between two tries
LOG_LINES = BUILD_LINES = 30
LOG_BYTES = BUILD_BYTES = 20000

# Where it fails, `runsv` sends the signal to its process itself: it has not come as far as to note its session, and what stands there is that of
# one before it.
SIGNAL = """#!/bin/sh
read -r session since <group && [ "$session" = "$(cat supervise/pid)" ] && kill -s %s -- "-$session" 2>/dev/null && : >told
"""

BEGAN = """began() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
"""

# Run in the unit's folder. `group` holds the number of the session, and when its first process began: a number alone may be anybody's later.
UNIT = {
    "run": "#!/bin/sh\n" + BEGAN + """# A supervisor that was killed has left its process behind, and that one has the port.
if [ -r group ] && read -r session since <group && [ "$(began "$session")" = "$since" ]; then kill -s KILL -- "-$session"; fi
rm -f told
echo "$$ $(began "$$")" >group
LOCKSTEP_UNIT=$(pwd -P)
export LOCKSTEP_UNIT
exec 2>&1
exec chpst -P ../current/start
""",
    "finish": "#!/bin/sh\n" + BEGAN + """# Whatever it has left behind would keep its port. Its first process is gone, unless what is noted is from before a reboot: a shell is gone at
# once. What it has started is told to end if it has not been, and killed if it does not.
if read -r session since <group; then
  now=$(began "$session")
  if [ -z "$now" ] || [ "$now" = "$since" ]; then
    [ -e told ] || kill -s TERM -- "-$session" 2>/dev/null
    look=0
    while kill -s 0 -- "-$session" 2>/dev/null; do
      if [ "$look" -ge %d ]; then kill -s KILL -- "-$session" 2>/dev/null; break; fi
      look=$((look + 1))
      sleep 0.1
    done
  fi
fi
# What has gone into a session of its own is known by its mark. It is told to end, and killed if it has not within two seconds.
for look in 1 2 3 4 5 6 7 8; do
  left=$(grep -zlxF -e "LOCKSTEP_UNIT=$(pwd -P)" /proc/[0-9]*/environ 2>/dev/null | cut -d/ -f3)
  [ "$left" ] || break
  case $look in
    1) kill -s TERM $left 2>/dev/null ;;
    [5-8]) kill -s KILL $left 2>/dev/null ;;
  esac
  sleep 0.5
done
exit 0
""" % (STOP_WAIT * 10),
    "control/t": SIGNAL % "TERM",
    "control/k": SIGNAL % "KILL",
    "log/run": "#!/bin/sh\nexec svlogd -tt ../../log\n",
}


def exports(values):
    """Variables as a file that the shell reads: any text, but for one character that no environment can hold."""
    lines = []
    for name, value in sorted(values.items()):
        if not VARIABLE.fullmatch(name):
            raise Refused("%r is not the name of a variable" % name)
        if not isinstance(value, str) or "\0" in value:
            raise Refused("the value of %s is no text that an environment can hold" % name)
        lines.append("export %s=%s\n" % (name, shlex.quote(value)))
    return "".join(lines)


def names_of(text):
    """The names in what `exports` has written; None where it is damaged."""
    try:
        return {word.partition("=")[0] for word in shlex.split(text) if word != "export"}
    except ValueError:
        return None


def remove_tree(folder):
    """Also where a service has made folders of its own read-only."""
    try:
        shutil.rmtree(folder)
    except PermissionError:
        for inside, names, _files in os.walk(folder):
            for path in [inside, *(os.path.join(inside, name) for name in names)]:
                if not os.path.islink(path):
                    with contextlib.suppress(OSError):
                        os.chmod(path, 0o700)
        shutil.rmtree(folder)


# --- the service on this host -----------------------------------------------------------------------------------------


def own_address():
    """Where others reach this host: there ssh has. A service that listens on the loopback alone is reached by nobody else. (Services listen on
    HOST, which is IPv4.)"""
    words = os.environ.get("SSH_CONNECTION", "").split()
    return words[2] if len(words) == 4 and ":" not in words[2] else "127.0.0.1"


class Service:
    def __init__(self, root, name):
        if not NAME.fullmatch(name):
            raise Refused("%r is not the name of a service" % name)
        self.root, self.name = root, name
        self.folder = os.path.join(root, "services", name)
        self.unit = os.path.join(self.folder, "unit")
        self.link = os.path.join(root, "supervise", name)
        self.log = os.path.join(self.folder, "log", "current")
        self.mark = mark_of(self.unit)
        # What copies files into a release and builds it bears this: see roles/order/tasks/deploy.yml.
        self.building = "LOCKSTEP_BUILD=" + self.folder

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def locked(self):
        os.makedirs(os.path.join(self.root, "locks"), exist_ok=True)
        return locked(os.path.join(self.root, "locks", self.name), LOCK_WAIT)

    def environment(self, values, port):
        return exports(values) + (read(self.path("secrets.env")) or "") + "export PORT=%d HOST=0.0.0.0\n" % port

    def release_of(self, link):
        """The release that a link names, if it is one that has answered."""
        name = link_target(self.path(link))
        return name if name and read(self.path(name, "digest")) else ""

    def check_of(self, release):
        port, _space, health = (read(self.path(release, "check")) or "").partition(" ")
        return int(port), health

    # --- the supervisor

    def supervised(self):
        """Whether a runsv looks after the unit: it alone reads this pipe."""
        try:
            os.close(os.open(os.path.join(self.unit, "supervise", "ok"), os.O_WRONLY | os.O_NONBLOCK))
            return True
        except OSError:
            return False

    def sv(self, *arguments):
        done = subprocess.run(["sv", *arguments, self.unit], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        return done.stdout.decode("utf-8", "replace").strip()

    def run_supervisor(self):
        """Sees to it that runsvdir runs, one for this environment and mode; whether it did not. It takes nothing of this process's environment along."""
        folder = os.path.join(self.root, "supervise")
        os.makedirs(folder, exist_ok=True)
        command = ["runsvdir", "-P", folder]
        with locked(folder, LOCK_WAIT):
            for pid in filter(str.isdigit, os.listdir("/proc")):
                with contextlib.suppress(PermissionError):
                    # Whoever starts it at boot may spell it otherwise.
                    program, *rest = (read("/proc/%s/cmdline" % pid) or "").split("\0")
                    if os.path.basename(program) == command[0] and os.path.realpath(folder) in map(os.path.realpath, rest[:2]):
                        return False
            environ = {name: os.environ[name] for name in ("HOME", "USER", "LOGNAME") if name in os.environ}
            environ.update(PATH=PATH, LANG="C.UTF-8")
            with open(folder + ".log", "wb") as log:
                subprocess.Popen(command, cwd="/", env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        return True

    def write_unit(self):
        for folder in (self.unit, os.path.join(self.unit, "control"), os.path.join(self.unit, "log"), self.path("log")):
            os.makedirs(folder, exist_ok=True)
        for name, text in UNIT.items():
            path = os.path.join(self.unit, name)
            if read(path) != text:
                put(path, text, 0o755)

    def is_down(self):
        """Whether it is down and is to stay so. Between two starts of a process that keeps ending it is down as well, and runsv, which then sleeps,
        has not yet read what it was told; `sv` takes it for done."""
        try:
            with open(os.path.join(self.unit, "supervise", "status"), "rb") as file:
                status = file.read()
        except FileNotFoundError:
            return False
        return len(status) == 20 and status[17:18] == b"d" and status[19] == 0

    def end_marked(self, mark):
        """Ends what bears a mark of this service: what a killed supervisor or a build that was given up has left."""
        self.end_all(lambda pid: bears(pid, mark))

    def end_writers(self):
        """Ends what writes to the log still: it has left the session and its environment, and `runsv` would wait for it. Only once the service is
        down."""
        loggers, pipes = set(), set()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                # Also one whose folder was removed: then it says so behind the name.
                logs = (read("/proc/%s/comm" % pid) or "").strip() == "svlogd"
                if logs and os.readlink("/proc/%s/cwd" % pid).startswith(os.path.realpath(self.folder) + "/"):
                    loggers.add(pid)
                    source = os.readlink("/proc/%s/fd/0" % pid)
                    if source.startswith("pipe:"):
                        # Anything else, such as /dev/null, others have open as well.
                        pipes.add(source)

        def writes(pid):
            with contextlib.suppress(OSError):
                if pipes and pid not in loggers and (read("/proc/%s/comm" % pid) or "").strip() != "runsv":
                    return any(link_target("/proc/%s/fd/%s" % (pid, name)) in pipes for name in os.listdir("/proc/%s/fd" % pid))
            return False

        self.end_all(writes)

    def end_left(self):
        """Ends what nobody looks after: its supervisor was killed, or its folder removed."""
        self.end_all(self.is_lost_runsv)
        orphan = self.session()
        if orphan:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(orphan, signal.SIGKILL)
        self.end_marked(self.mark)
        self.end_writers()

    def is_lost_runsv(self, pid):
        """Whether it is a `runsv` of this service whom nobody can tell anything: its folder is gone, or what it reads."""
        with contextlib.suppress(OSError):
            places = (os.path.realpath(self.unit), os.path.realpath(self.unit) + " (deleted)")
            return (read("/proc/%s/comm" % pid) or "").strip() == "runsv" and os.readlink("/proc/%s/cwd" % pid) in places
        return False

    def end_all(self, which):
        def left():
            return [int(pid) for pid in filter(str.isdigit, os.listdir("/proc")) if which(pid)]

        def none():
            for pid in left():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not left()

        if not wait(none, 5):
            raise Refused("what an earlier job has left on this host does not end: process %d" % (left() or [0])[0])

    def stop(self):
        # Of a `runsv` that has just begun `sv` may hear that all is down, and leaves; then it is told once more, to wait and to kill.
        for _time in range(2):
            said = self.sv("-w", str(STOP_WAIT), "force-stop")
            if wait(self.is_down, END_WAIT):
                break
        else:
            raise Refused("what runs does not end: %s" % said)
        self.end_writers()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.join(self.unit, "group"))

    def session(self):
        """The session that the unit has started last; 0 where it is over."""
        number, _space, began = (read(os.path.join(self.unit, "group")) or "").strip().partition(" ")
        return int(number) if number.isdigit() and (stat_of(number) + [""] * 20)[19] == began else 0

    def run(self, release):
        """Makes the release the one that runs; does not wait for its answer."""
        self.write_unit()
        orphan = 0 if self.supervised() else self.session()
        begun = self.run_supervisor()
        linked = os.path.lexists(self.link)
        if linked:
            wait(self.supervised, SUPERVISOR_WAIT if begun else SUPERVISOR_LOOK)
        if self.supervised():
            self.stop()
            if not linked:
                # It is told to leave, or will be: the link makes another one.
                self.sv("exit")
                wait(lambda: not self.supervised(), END_WAIT)
        else:
            if linked:
                # Somebody has removed the folder, and this is a new one: what is linked anew is looked at.
                os.unlink(self.link)
            linked = False
            self.end_left()
        self.await_port(self.check_of(release)[0], orphan)
        if not linked and self.supervised():
            # One that came late has started what ran before.
            self.stop()
        switch(self.path("current"), release)
        if not linked:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(os.path.join(self.unit, "group"))
            switch(self.link, os.path.join("..", "services", self.name, "unit"))
            self.await_supervision()
        self.sv("up")

    def await_supervision(self):
        if not wait(self.supervised, SUPERVISOR_WAIT):
            said = (read(os.path.join(self.root, "supervise.log")) or "").strip()[-500:]
            raise Refused("the supervisor does not look after the service: %s" % (said or "it says nothing"))

    def await_port(self, port, orphan):
        """What answers there is to be this service, and not who took its port. What a killed supervisor has left of this service is ended."""
        if orphan and (listener(port) or (0, 0))[1] == orphan:
            os.killpg(orphan, signal.SIGKILL)
        if not wait(lambda: listener(port) is None, 5):
            raise Refused("port %d is not free: %s listens there" % (port, who_listens(port)))

    def answers(self, port, health, seconds=5):
        connection = http.client.HTTPConnection(own_address(), port, timeout=seconds)
        with contextlib.closing(connection):
            try:
                connection.request("GET", health)
                status = connection.getresponse().status
            except (OSError, http.client.HTTPException) as error:
                return False, "%s" % error
        return status < 400, "status %d" % status

    def await_answer(self, port, health, tries):
        """None once it answers, else why not. A process that has ended twice will not come."""
        seen, said, until = set(), "", time.monotonic() + tries * PAUSE
        while (began := time.monotonic()) < until:
            seen.add(read(os.path.join(self.unit, "group")))
            if len(seen - {None}) > 2:
                return "it keeps ending"
            well, said = self.answers(port, health, min(5, max(PAUSE, until - began)))
            if well:
                return None
            time.sleep(max(0, began + PAUSE - time.monotonic()))
        return "http://%s:%d%s does not answer as it should (%s)" % (own_address(), port, health, said)

    # --- changes

    def lost(self, port, variables, commit):
        """What is gone of what is recorded, in the order's words: somebody has removed it, or the machine was made anew. Of variables it is
        the names that are looked at."""
        there = {
            "port": lambda: port is None or (read(self.path("port")) or "").strip() == str(port),
            "variables": lambda: variables is None or names_of(read(self.path("secrets.env")) or "") == set(variables),
            "release": lambda: commit is None or self.runs(commit),
        }
        gone = []
        for name, is_there in there.items():
            try:
                if not is_there():
                    gone.append(name)
            except (Refused, OSError):
                # It is made anew in its place, which says what is wrong if that cannot be done.
                gone.append(name)
        return gone

    def runs(self, commit):
        """Whether a release of this commit is the one that is kept running; whether it answers is not asked."""
        live = self.release_of("current")
        whole = all(os.path.exists(self.path(live, name)) for name in ("files", "start"))
        return live.startswith(commit + "-") and whole and os.path.islink(self.link)

    def compare(self, kind, commit, port, health, environment, variables):
        # Who serves files alone is told nothing.
        told = None if serves_files(kind) else self.environment(environment, port)
        wanted = json.dumps([kind, commit, port, health, told])
        digest = hashlib.sha256(wanted.encode()).hexdigest()
        live = self.release_of("current")
        same = self.runs(commit) and read(self.path(live, "digest")) == digest and self.supervised() and self.answers(port, health)[0]
        return {"changed": False, "digest": digest, "same": same, "live": live, "lost": self.lost(port, variables, None)}

    def stage(self, release, environment, port):
        if not RELEASE.fullmatch(release):
            raise Refused("%r is not the name of a release" % release)
        keep = {link_target(self.path(link)) for link in ("current", "before")}
        # A repetition of the job whose release is there leaves that one alone.
        name, number = release, 0
        while name in keep:
            number += 1
            name = "%s.%d" % (release, number)
        # The runner of a build may have been ended, and the build has gone on: see the role's task.
        self.end_marked(self.building)
        self.prune(keep)
        os.makedirs(self.path(name, "files"), mode=0o700)
        os.makedirs(self.path(name, "temp"))
        put(self.path(name, "environment.env"), self.environment(environment, port), 0o600)
        return {"changed": True, "release": name, "files": self.path(name, "files")}

    def prune(self, keep):
        for name in os.listdir(self.folder):
            if RELEASE.fullmatch(name) and name not in keep:
                remove_tree(self.path(name))

    @contextlib.contextmanager
    def untouched(self):
        """A failure within this says what is live: what was. That comes before the rest of what is said, which may be long."""
        try:
            yield
        except (Refused, OSError) as error:
            why, _newline, more = str(error).partition("\n")
            raise Refused("\n".join(filter(None, (why, self.live(), more)))) from None

    def live(self):
        try:
            release, before = link_target(self.path("current")), link_target(self.path("before")).split("-")[0]
            proven = self.release_of("current")
        except Refused as error:
            return "it is not known what is live: %s" % error
        current = release.split("-")[0]
        if proven:
            return "what ran before is live still: commit %s" % current
        if current and os.path.isdir(self.path(release)):
            # Its job was ended before it had answered.
            was = ", before it commit %s was" % before if before else ""
            return "it is not known what answers: commit %s was being started%s" % (current, was)
        return "nothing is live: nothing was before"

    def build(self, kind, release):
        files, log = self.path(release, "files"), self.path(release, "build.log")
        with self.untouched():
            steps = build_steps(kind, files)
            missing = [program for program in needed(kind, steps) if not shutil.which(program, path=PATH)]
            if missing:
                raise Refused("not installed on this host: %s; service %s is of type %s and needs it" % (", ".join(missing), self.name, kind))
            for step in steps:
                # What it says may be more than anybody can hold in memory.
                with open(log, "ab") as file:
                    code = subprocess.run(step, cwd=files, stdin=subprocess.DEVNULL, stdout=file, stderr=file).returncode
                if code:
                    how = "ended with %d" % code if code > 0 else "was ended by signal %d" % -code
                    raise Refused("`%s` %s. The end of what it said (%s has all):\n%s" % (" ".join(step), how, log, "\n".join(self.built(log))))
        return {"changed": bool(steps), "steps": [" ".join(step) for step in steps], "said": self.built(log)}

    def built(self, log):
        """The last lines of what a build has said."""
        try:
            with open(log, "rb") as file:
                cut = max(0, os.fstat(file.fileno()).st_size - BUILD_BYTES)
                file.seek(cut)
                lines = file.read(BUILD_BYTES).decode("utf-8", "replace").splitlines()
                # A part of a line may be a part of something that would be masked as a whole.
                return lines[1 if cut else 0 :][-BUILD_LINES:]
        except FileNotFoundError:
            return []

    def start(self, kind, release, port, health, digest, tries):
        files = self.path(release, "files")
        with self.untouched():
            if serves_files(kind):
                put(self.path(release, "nginx.conf"), nginx_conf(kind, self.path(release), port, public_folder(kind, files)))
            put(self.path(release, "check"), "%d %s" % (port, health))
            put(self.path(release, "start"), start_script(kind, files, port), 0o755)
        before = self.release_of("current") or self.release_of("before")
        if before:
            switch(self.path("before"), before)
        said = self.log_size()
        try:
            self.run(release)
            why = self.await_answer(port, health, tries)
        except (Refused, OSError) as error:
            why = str(error)
        if why is None:
            put(self.path(release, "digest"), digest)
            self.prune({release, before})
            return {"changed": True, "release": release, "before": before}
        # What is live comes before the log, which may be long.
        log = self.log_since(said)
        raise Refused("%s\n%s\n%s" % (why, self.put_back(before, tries), log))

    def put_back(self, before, tries):
        """What was live before is live again; returns what is live now."""
        try:
            if not before:
                self.take_down()
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self.path("current"))
                return "nothing is live: nothing was before"
            self.run(before)
            why = self.await_answer(*self.check_of(before), tries)
        except (Refused, OSError) as error:
            why = str(error)
        if why and not before:
            return "nothing was before, and what was started could not be ended: %s" % why
        if why:
            return "it is not known what answers: what ran before, commit %s, could not be put back: %s" % (before.split("-")[0], why)
        return "what ran before is live again: commit %s" % before.split("-")[0]

    def take_down(self):
        """Ends process and supervision. What is not linked is not started again."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.link)
        if not self.supervised():
            self.end_left()
        if self.supervised():
            self.stop()
            said = self.sv("exit")
            if not wait(lambda: not self.supervised(), END_WAIT):
                raise Refused("what runs does not end: %s" % said)

    def remove(self):
        if not os.path.lexists(self.folder) and not os.path.lexists(self.link):
            return {"changed": False}
        self.take_down()
        self.end_marked(self.building)
        if os.path.lexists(self.folder):
            remove_tree(self.folder)
        return {"changed": True}

    # --- its log

    def log_size(self):
        try:
            return os.stat(self.log).st_size
        except FileNotFoundError:
            return 0

    def log_since(self, size):
        """The last lines that were written since the log had this size; svlogd begins a new file now and then."""
        written = read_from(self.log, size, -1)
        # Some programs print their environment when they fail. Short values would hide half of the text, and are no secrets.
        words = shlex.split(read(self.path("secrets.env")) or "")
        secrets = [line.encode() for word in words for line in word.partition("=")[2].splitlines() if len(line) > 5]
        # What is cut off may end within a value: the rest of it would not be known for one.
        within = max(map(len, secrets), default=0)
        cut = len(written) > LOG_BYTES + within
        text = written[-LOG_BYTES - within :] if cut else written
        for secret in secrets:
            text = text.replace(secret, b"********")
        lines = text[within if cut else 0 :].decode("utf-8", "replace").splitlines()
        return "\n".join(["its log:", *lines[-LOG_LINES:]]) if lines else "it has written nothing to its log"


def apply(asked):
    service = Service(asked["root"], asked["service"])
    what, port, health = asked["change"], asked["port"], asked["health"]
    if what != "remove" and not health.startswith("/") or re.search(r"[^!-~]", health):
        raise Refused("%r is not a path that can be asked for" % health)
    if what == "look":
        services = {str(one["service"]): Service(asked["root"], str(one["service"])).lost(one["port"], one["variables"], one.get("commit")) for one in asked["recorded"]}
        lost = {name: gone for name, gone in services.items() if gone}
        if not os.path.isdir(os.path.dirname(service.link)):
            return {"changed": False, "lost": lost}
    if what == "build":
        # Without the lock: who comes next has to get in to end it.
        compare_fence(**asked["fence"])
        return service.build(asked["type"], asked["release"])
    with service.locked():
        compare_fence(**asked["fence"])
        if what == "look":
            return {"changed": service.run_supervisor(), "lost": lost}
        if what == "remove":
            return service.remove()
        if what == "secrets":
            os.makedirs(service.folder, mode=0o700, exist_ok=True)
            text, path = exports(asked["secrets"]), service.path("secrets.env")
            if read(path) == text:
                return {"changed": False}
            put(path, text, 0o600)
            return {"changed": True}
        os.makedirs(service.folder, mode=0o700, exist_ok=True)
        if what == "compare":
            return service.compare(asked["type"], asked["commit"], port, health, asked["environment"], asked["variables"])
        if what == "stage":
            return service.stage(asked["release"], asked["environment"], port)
        return service.start(asked["type"], asked["release"], port, health, asked["digest"], asked["tries"])


def main():
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "change": {"type": "str", "required": True, "choices": ["look", "secrets", "compare", "stage", "build", "start", "remove"]},
            "root": {"type": "path", "required": True},
            "service": {"type": "str", "required": True},
            "recorded": {"type": "list", "elements": "dict"},
            "secrets": {"type": "dict", "no_log": True},
            "variables": {"type": "list", "elements": "str"},
            "type": {"type": "str", "choices": ["node", "python", "angular", "static"]},
            "port": {"type": "int"},
            "health": {"type": "str", "default": "/"},
            "commit": {"type": "str"},
            # The role's tasks have no_log. Here it would strike each of these values out of paths in results as well: `3`, `production`.
            "environment": {"type": "dict"},
            "release": {"type": "str"},
            "digest": {"type": "str"},
            "tries": {"type": "int", "default": 40},
            "fence": {"type": "dict", "required": True, "options": {
                "path": {"type": "path", "required": True}, "fence": {"type": "int", "required": True}, "job": {"type": "str", "required": True},
            }},
        },
        required_if=[
            ("change", "look", ["recorded"]),
            ("change", "secrets", ["secrets"]),
            ("change", "compare", ["type", "commit", "port", "environment"]),
            ("change", "stage", ["release", "port", "environment"]),
            ("change", "build", ["type", "release"]),
            ("change", "start", ["type", "release", "port", "digest"]),
        ],
    )  # fmt: skip
    try:
        module.exit_json(**apply(module.params))
    except Refused as refused:
        module.fail_json(msg=str(refused), refused=True)
    except OSError as error:
        module.fail_json(msg="the service cannot be changed on this host: %s" % error)


if __name__ == "__main__":
    main()
