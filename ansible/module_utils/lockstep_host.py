"""What the modules of this folder share on the host that they change: the fence as it stands there, a lock, files that are
written whole, and the nginx of the remote user.

Nothing here depends on Ansible. A change that cannot be made is `Refused`; then nothing was changed.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time

START_WAIT = 10  # seconds for nginx to begin with a new configuration


class Refused(Exception):
    """The change cannot be made, and nothing was changed."""


@contextlib.contextmanager
def locked(path, seconds):
    """Holds the flock beside `path`. The lock file stays: removing it would give two jobs two locks."""

    def give_up(_signal, _frame):
        raise Refused("the lock of %s has been held for %d s by another process on this host" % (path, seconds))

    descriptor = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    before = signal.signal(signal.SIGALRM, give_up)
    try:
        signal.alarm(seconds)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        signal.alarm(0)
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.close(descriptor)


# --- files ------------------------------------------------------------------------------------------------------------


def read(path):
    """The text of a file, or None: there is none, or it is that of a process that has ended."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None


def read_from(path, size, most=1 << 16):
    """What was written to a log since it had this size, from its beginning if it was begun anew; the first bytes of it, if it is much."""
    try:
        with open(path, "rb") as file:
            file.seek(size if size <= os.fstat(file.fileno()).st_size else 0)
            return file.read(most)
    except FileNotFoundError:
        return b""


def sync_folder(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(path, text, mode=0o644):
    """Writes the file whole, or takes it away. Whoever calls holds a lock: what is beside the file has one name."""
    if text is None:
        os.unlink(path)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path + ".put")
        try:
            with open(os.open(path + ".put", os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fchmod(file.fileno(), mode)
                os.fsync(file.fileno())
            os.rename(path + ".put", path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + ".put")
            raise
    sync_folder(os.path.dirname(path))


def link_target(link):
    """Where a symbolic link points; empty where there is none."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Refused("%s is there and is not a symbolic link: move it away once, by hand" % link) from None
        raise


def switch(link, to):
    """Points `link` to `to` by rename, so that at every moment it is the old or the new one. Nothing removes it."""
    folder = os.path.dirname(link)
    if not to:
        os.unlink(link)
    else:
        temporary = os.path.join(folder, ".%s.%d" % (os.path.basename(link), os.getpid()))
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        os.symlink(to, temporary)
        os.rename(temporary, link)
    sync_folder(folder)


# --- the fence --------------------------------------------------------------------------------------------------------


def stored_fence(path):
    """Which job this host has let pass last: (fence, job), or None before the first one."""
    text = read(path)
    if text is None:
        return None
    try:
        stored = json.loads(text)
        fence, job = stored["fence"], stored["job"]
        if type(fence) is not int or type(job) is not str:
            raise ValueError("fence must be a number and job a string")
        return fence, job
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            "%s is damaged (%s), so it is unknown which job was here last; when no job is running, "
            'write {"fence": 0, "job": ""} into it' % (path, error)
        ) from None


def compare_fence(path, fence, job):
    """This job took the fence at its beginning (role fence). If another is there now, it is newer."""
    stored = stored_fence(path)
    if stored is None:
        raise Refused("no job has taken the fence of this inventory on this host, %s is not there; nothing was changed" % path)
    if stored != (fence, job):
        raise Refused("fence %d of job %s is no longer that of this host, fence %s of job %s is; nothing was changed" % (fence, job, *stored))


# --- who listens ------------------------------------------------------------------------------------------------------


def stat_of(pid):
    """What /proc/<pid>/stat says behind the name, which may have spaces: state, parent, group, session, …; empty once it has ended."""
    return (read("/proc/%s/stat" % pid) or "").rpartition(")")[2].split()


def listening():
    """Sockets that listen on TCP ports of this host, by port."""
    sockets = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in (read(table) or "").splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                sockets.setdefault(int(fields[1].rpartition(":")[2], 16), set()).add(fields[9])
    return sockets


def listener(port):
    """(pid, session, name) of a process that listens on the port, as far as this user may know; None where nothing listens."""
    wanted = {"socket:[%s]" % inode for inode in listening().get(port, ())}
    if not wanted:
        return None
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            for descriptor in os.listdir("/proc/%s/fd" % pid):
                with contextlib.suppress(OSError):
                    if os.readlink("/proc/%s/fd/%s" % (pid, descriptor)) in wanted:
                        return int(pid), int((stat_of(pid) + ["0"] * 4)[3]), (read("/proc/%s/comm" % pid) or "").strip()
    return 0, 0, "a process of another user"


def mark_of(unit):
    """What the environment of all processes of a service has, by the folder of its unit; see lockstep_service."""
    return "LOCKSTEP_UNIT=" + os.path.realpath(unit)


def bears(pid, mark):
    """Whether the environment in which a process was started has this, as NAME=value; of another user's nothing is known."""
    with contextlib.suppress(OSError), open("/proc/%s/environ" % pid, "rb") as file:
        return mark.encode() in file.read().split(b"\0")
    return False


def serves(pid, folder):
    """Whether a process is an nginx, or a worker of one, for what lies in a folder: it writes its title where its environment was."""
    for number in [pid, *(stat_of(pid) + ["", ""])[1:2]]:
        words = (read("/proc/%s/cmdline" % number) or "").replace("\0", " ").split()
        if words[:1] == ["nginx:"] and any(word.startswith(folder + "/") for word in words):
            return True
    return False


def who_listens(port):
    """Who has a port, for a message."""
    pid, _session, name = listener(port) or (0, 0, "a process that has just ended")
    return "process %d (%s)" % (pid, name) if pid else name


# --- processes and nginx ----------------------------------------------------------------------------------------------


def wait(condition, seconds):
    """Processes that are not our children end without an event."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def words_of(said):
    """What nginx says of a configuration that it could not take, and who has the port if that is why. Beside requests that it serves, it says
    much else in the same log."""
    grave = [line for line in said.splitlines() if "[emerg]" in line or "[alert]" in line]
    words = ("\n".join(grave[:1] + grave[-1:] if len(grave) > 1 else grave) or said.strip())[-1500:]
    taken = re.search(r"bind[(][)] to \S+:([0-9]+) failed .*Address already in use", said)
    return "%s\nport %s: %s listens there" % (words, taken[1], who_listens(int(taken[1]))) if taken else words


class Nginx:
    """The file nginx.conf.due is there from before a configuration is written until it is the one that runs. While it is, what is on
    paper may not be what happens: whoever wrote it was killed in between.
    """

    def __init__(self, settings):
        self.settings, self.root = settings, settings["root"]
        self.file = os.path.join(self.root, "nginx.conf")
        self.due_file = self.file + ".due"
        self.program = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
        if not self.program:
            raise Refused("nginx is not installed on this host")

    def run(self, file, *options):
        command = [self.program, "-p", self.root, "-c", file, "-e", os.path.join(self.root, "error.log"), *options]
        return subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)

    def master(self):
        """The process of the pid file, if it is the one that runs this configuration: after a restart it may be any."""
        number = (read(os.path.join(self.root, "nginx.pid")) or "").strip()
        command = number.isdigit() and read("/proc/%s/cmdline" % number) or ""
        # Whoever starts it at boot may spell it otherwise.
        words = command.replace("\0", " ").split()
        folder = words[words.index("-p") + 1 :][:1] if "-p" in words else []
        own = self.file in command or os.path.realpath(self.root) in map(os.path.realpath, folder)
        return int(number) if "nginx: master" in command and own else None

    def workers(self, master):
        pids = set()
        for name in os.listdir("/proc"):
            fields = stat_of(name) if name.isdigit() else []
            if fields and fields[1] == str(master):
                pids.add(name)
        return pids

    def test(self, text):
        for folder in (self.root, os.path.join(self.root, "temp")):
            os.makedirs(folder, exist_ok=True)
        candidate = self.file + ".new"
        put(candidate, text)
        try:
            done = self.run(candidate, "-t", "-q")
        finally:
            os.unlink(candidate)
        if done.returncode:
            raise Refused("nginx does not accept the new configuration, the old one stays: " + done.stdout.decode("utf-8", "replace").strip()[-1500:])

    def start(self):
        done = self.run(self.file)
        if done.returncode or not wait(lambda: self.master() and self.workers(self.master()), START_WAIT):
            raise Refused("nginx did not start: " + words_of(done.stdout.decode("utf-8", "replace")))

    def reload(self, master):
        old, log = self.workers(master), os.path.join(self.root, "error.log")
        size = os.path.getsize(log) if os.path.exists(log) else 0
        os.kill(master, signal.SIGHUP)
        if not wait(lambda: self.workers(master) - old, START_WAIT):
            said = words_of(read_from(log, size).decode("utf-8", "replace"))
            raise Refused("nginx did not take the new configuration, the old one stays: " + said)
        # nginx ends them itself after `drain`.
        if not wait(lambda: not self.workers(master) & old, self.settings["drain"] + START_WAIT):
            raise OSError("workers of nginx with the old configuration do not end")

    def due(self):
        return os.path.exists(self.due_file)

    def use(self, text, before):
        """Makes `text` the configuration that runs, or leaves `before`."""
        self.test(text)
        put(self.due_file, "")
        put(self.file, text)
        try:
            self.take()
        except Refused:
            put(self.file, before)
            # It may have been slow, and take later what it was told to read. Told once more, it reads what is there now.
            if before is not None and self.master():
                with contextlib.suppress(Refused):
                    self.take()
            raise

    def take(self):
        master = self.master()
        if master:
            self.reload(master)
        else:
            self.start()
        put(self.due_file, None)
