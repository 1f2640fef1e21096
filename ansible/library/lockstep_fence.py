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

import json
import os

from ansible.module_utils.lockstep_host import Refused, link_target, locked, put, stored_fence, switch

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


def apply(path, fence, job, link=None, to=None, check_mode=False):
    """Compares, and writes or switches what must be. Returns the result of the module; raises Refused."""
    result = {"changed": False, "fence": fence, "job": job}
    if check_mode and not os.path.isdir(os.path.dirname(path)):
        return dict(result, changed=True, stored=None)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with locked(path, LOCK_WAIT):
        stored = stored_fence(path)
        result["stored"] = stored and {"fence": stored[0], "job": stored[1]}
        reason = refusal(stored, fence, job)
        if reason:
            raise Refused(reason)
        if stored != (fence, job):
            result["changed"] = True
            if not check_mode:
                put(path, json.dumps({"fence": fence, "job": job}) + "\n")
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
