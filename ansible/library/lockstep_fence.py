#!/usr/bin/python3
"""The fence as the target keeps it: which job was the last one allowed to change this inventory here.

One file an inventory, `{"fence": 7, "job": "01H…"}`. Each call holds an exclusive flock from reading to writing, so of
two jobs that arrive together one sees what the other wrote:

    the target has   the job's fence is   same job   then
    nothing          any                  -          passes, is written
    f                higher than f        -          passes, is written
    f                f                    yes        passes
    f                f                    no         refused
    f                lower than f         -          refused
    unreadable       any                  -          refused: nobody knows what it was

With `link` the same lock covers the switch of a symbolic link. A job that passed at its beginning and was overtaken
since then (that is possible across engines, where no lock is shared) cannot switch any more.
"""

import contextlib
import errno
import fcntl
import json
import os
import signal
import tempfile

DOCUMENTATION = r"""
module: lockstep_fence
short_description: Passes only for the job with the highest fence, and may switch a symbolic link under that condition
options:
  path: {description: The file that keeps the fence on the target., type: path, required: true}
  fence: {description: The fence of the job that runs., type: int, required: true}
  job: {description: The id of the job that runs., type: str, required: true}
  link: {description: A symbolic link to switch once the fence has passed., type: path}
  to: {description: What link shall point to; empty removes it. Required with link., type: str}
"""

LOCK_WAIT = 30  # seconds; the lock is held for milliseconds


class Refused(Exception):
    """The fence did not let this job pass, or nobody can tell whether it should."""


@contextlib.contextmanager
def locked(path):
    """Holds the flock beside `path`. The lock file stays: removing it would give two jobs two locks."""

    def give_up(_signal, _frame):
        raise Refused("the lock of %s has been held for %d s by another process on this host" % (path, LOCK_WAIT))

    descriptor = os.open(path + ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    before = signal.signal(signal.SIGALRM, give_up)
    try:
        signal.alarm(LOCK_WAIT)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        signal.alarm(0)
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        os.close(descriptor)


def read(path):
    """What the target has stored: (fence, job), or None before the first job."""
    try:
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
        fence, job = stored["fence"], stored["job"]
        if type(fence) is not int or type(job) is not str:
            raise ValueError("fence must be a number and job a string")
        return fence, job
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise Refused(
            "%s is damaged (%s), so it is unknown which job was here last; when no job is running, "
            'write {"fence": 0, "job": ""} into it' % (path, error)
        )


def refusal(stored, fence, job):
    """Why this job may not pass, or None when it may."""
    if stored is None:
        return None
    stored_fence, stored_job = stored
    if fence > stored_fence or (fence == stored_fence and job == stored_job):
        return None
    if fence == stored_fence:
        return "fence %d of job %s is already that of job %s on this host; nothing was changed" % (fence, job, stored_job)
    return "fence %d of job %s is lower than fence %d of job %s on this host: a newer job was here; nothing was changed" % (
        fence, job, stored_fence, stored_job,
    )  # fmt: skip


def sync_folder(path):
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write(path, fence, job):
    folder = os.path.dirname(path)
    descriptor, temporary = tempfile.mkstemp(prefix=".fence-", dir=folder)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump({"fence": fence, "job": job}, file)
            file.write("\n")
            file.flush()
            os.fchmod(file.fileno(), 0o644)
            os.fsync(file.fileno())
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
    sync_folder(folder)


def link_target(link):
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return ""
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise Refused("%s is there and is not a symbolic link: move it away once, by hand" % link)
        raise


def switch(link, to):
    """Points `link` to `to` by rename, so that at every moment it is the old or the new one."""
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


def apply(path, fence, job, link=None, to=None, check_mode=False):
    """Compares, and writes or switches what must be. Returns the result of the module; raises Refused."""
    result = {"changed": False, "fence": fence, "job": job}
    if check_mode and not os.path.isdir(os.path.dirname(path)):
        return dict(result, changed=True, stored=None)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with locked(path):
        stored = read(path)
        result["stored"] = stored and {"fence": stored[0], "job": stored[1]}
        reason = refusal(stored, fence, job)
        if reason:
            raise Refused(reason)
        if stored != (fence, job):
            result["changed"] = True
            if not check_mode:
                write(path, fence, job)
        if link:
            result["link_before"] = link_target(link)
            if result["link_before"] != to:
                result["changed"] = True
                if not check_mode:
                    switch(link, to)
    return result


def main():
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "fence": {"type": "int", "required": True},
            "job": {"type": "str", "required": True},
            "link": {"type": "path"},
            "to": {"type": "str"},
        },
        required_by={"link": ["to"]},
        supports_check_mode=True,
    )
    try:
        module.exit_json(**apply(check_mode=module.check_mode, **module.params))
    except Refused as refused:
        module.fail_json(msg=str(refused), refused=True)
    except OSError as error:
        module.fail_json(msg="the fence cannot be kept on this host: %s; the remote user must be able to write it" % error)


if __name__ == "__main__":
    main()
