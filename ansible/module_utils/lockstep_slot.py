"""A slot of a service: a folder, and the processes that run from it.

    files   the service
    run     starts it, see roles/service/templates/run.j2
    pid     the pid of what was started, and the time at which that began in ticks since the host's start: a pid alone says
            nothing, after a restart it may be anybody's
    log     what it has said since it was started; log.1, what the one before has said

What is started leads a group of processes. When it is gone, others of them may hold its port still; so a slot is stopped when none of
them is left.
"""

import os
import shutil
import signal
import subprocess

from ansible.module_utils.lockstep_host import Refused, read, stat_of, wait

START_WAIT = STOP_WAIT = 10  # seconds
GROUP, BEGAN = 2, 19  # fields of lockstep_host.stat_of


class Slot:
    def __init__(self, folder):
        self.folder = folder

    def path(self, name):
        return os.path.join(self.folder, name)

    def known(self):
        """The pid, when it began, and what is known of the process that has this pid now."""
        pid, began = ((read(self.path("pid")) or "").split() + ["", ""])[:2]
        return (pid, began, stat_of(pid)) if pid.isdigit() and began.isdigit() else (None, None, [])

    def led(self):
        """Whether what was started runs itself."""
        _pid, began, fields = self.known()
        return bool(fields) and fields[BEGAN] == began and fields[0] not in "ZX"

    def group(self):
        """The number of the group of which somebody runs, or None."""
        pid, began, leader = self.known()
        # While one of a group is left, no other process gets the number of the one that led it.
        if pid is None or (leader and leader[BEGAN] != began):
            return None
        for name in os.listdir("/proc"):
            fields = name.isdigit() and stat_of(name)
            if fields and fields[GROUP] == pid and fields[0] not in "ZX":
                return int(pid)
        return None

    def last_words(self):
        return " ".join((read(self.path("log")) or "").strip().split("\n")[-5:])[-1000:]

    def must_run(self):
        if not self.led():
            raise Refused("what was started in %s does not run any more: %s" % (self.folder, self.last_words()))

    def start(self):
        """Whether it was started; it may run already."""
        if self.led():
            return False
        self.stop()
        if os.path.exists(self.path("pid")):
            os.unlink(self.path("pid"))
        if os.path.exists(self.path("log")):
            os.replace(self.path("log"), self.path("log.1"))
        # Appended to, so that whoever rotates it may copy and cut it while the service runs. A log may hold what is secret.
        log = os.open(self.path("log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            # A session of its own: it outlives the connection, and is stopped with all that it has started.
            started = subprocess.Popen([self.path("run")], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True)
        finally:
            os.close(log)
        wait(lambda: self.led() or started.poll() is not None, START_WAIT)
        if not self.led():
            raise Refused("did not start: " + self.last_words())
        return True

    def stop(self):
        for number in (signal.SIGTERM, signal.SIGKILL):
            group = self.group()
            if group is None:
                return
            try:
                os.killpg(group, number)
            except ProcessLookupError:
                pass
            if wait(lambda: self.group() is None, STOP_WAIT):
                return
        raise OSError("processes of %s do not end" % self.folder)

    def empty(self):
        """Leaves what `start` needs, and nothing of what was there."""
        self.remove()
        os.makedirs(self.path("files"))

    def remove(self):
        """Whether there was anything."""
        if not os.path.isdir(self.folder):
            return False
        self.stop()
        shutil.rmtree(self.folder)
        return True
