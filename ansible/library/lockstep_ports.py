#!/usr/bin/python3
"""The ports of services on one host: each keeps the one that it has, and gets one where it has none.

What was chosen is noted in the service's folder, `port`, before anybody is told, so that a repetition after a crash chooses the same. The notes
of all environments on this host count as taken, under one lock: two of them that choose at once, and know nothing of each other, choose
differently. Chosen is the lowest port of the range that is not taken, and on which nothing listens. A port that is recorded is kept, and refused
when something else than its service listens on it.
"""

import os
import pwd
import re

from ansible.module_utils.lockstep_host import Refused, bears, compare_fence, listener, listening, locked, mark_of, put, read, serves, who_listens

DOCUMENTATION = r"""
module: lockstep_ports
short_description: Sees to it that each service of this host has a port
options:
  base: {description: Folder that holds all environments of this host., type: path, required: true}
  root: {description: Folder of this environment and mode., type: path, required: true}
  host: {description: What the host is called in messages., type: str, required: true}
  placements: {description: "Services: service, ports (lowest and highest), taken, and port (or null).", type: list, elements: dict, required: true}
  fence: {description: "The job and its fence: path, fence and job.", type: dict, required: true}
"""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
LOCK_WAIT = 30  # seconds; the lock is held for milliseconds


def choose(placements, noted, foreign, listens, host):
    """Ports by service: pure.

    `noted` are the notes of these services, `foreign` those of all others on the host, with their folders. `listens(port)` is None, the service
    that listens there, or words for what else does.
    """
    chosen, trouble = {}, []
    fixed = {str(one["service"]): int(one["port"]) for one in placements if one["port"] is not None}
    for service, port in fixed.items():
        other = listens(port)
        if other not in (None, service):
            trouble.append("port %d of service %s: on %s %s listens there, which is not this service" % (port, service, host, words(other)))
        if port in foreign and other is None and noted.get(service) != port:
            # Nothing listens there at the moment: its owner could not start any more.
            trouble.append(
                "port %d of service %s: on %s it has been given to another service meanwhile, %s. Remove that, if nobody needs it; "
                "else remove this service and order it again" % (port, service, host, foreign[port])
            )
        chosen[service] = port
    for one in placements:
        service = str(one["service"])
        if service in chosen:
            continue
        lowest, highest = (int(port) for port in one["ports"])
        used = {int(port) for port in one["taken"]} | set(foreign) | set(chosen.values())
        # The note goes first; what another service of this call has noted is left to it.
        theirs = {port for name, port in noted.items() if name != service}
        own = noted.get(service)
        wanted = ([own] if own is not None and lowest <= own <= highest else []) + list(range(lowest, highest + 1))
        free = (port for port in wanted if port not in used and port not in theirs and listens(port) in (None, service))
        chosen[service] = next(free, None)
        if chosen[service] is None:
            del chosen[service]
            trouble.append("service %s: no port from %d to %d is free on %s" % (service, lowest, highest, host))
    if trouble:
        raise Refused("\n".join(trouble))
    return chosen


def words(other):
    return other if " " in other else "service %s" % other


def note_of(folder):
    text = (read(os.path.join(folder, "port")) or "").strip()
    return int(text) if text.isdigit() else None


def notes(base):
    """Ports by folder of a service, of all environments on this host."""
    found = {}
    for environment in os.listdir(base) if os.path.isdir(base) else ():
        services = os.path.join(base, environment, "services")
        for service in os.listdir(services) if os.path.isdir(services) else ():
            port = note_of(os.path.join(services, service))
            if port is not None:
                found[os.path.join(services, service)] = port
    return found


def apply(base, root, host, placements, fence):
    os.makedirs(base, exist_ok=True)
    folders = {}
    for one in placements:
        if not NAME.fullmatch(str(one["service"])):
            raise Refused("%r is not the name of a service" % (one["service"],))
        folders[str(one["service"])] = os.path.join(root, "services", str(one["service"]))
    with locked(os.path.join(base, "ports"), LOCK_WAIT):
        compare_fence(**fence)
        there = notes(base)
        sockets = listening()

        def listens(port):
            if port not in sockets:
                return None
            pid, session, _name = listener(port) or (0, 0, "")
            for service, folder in folders.items():
                unit = os.path.join(folder, "unit")
                led = session and (read(os.path.join(unit, "group")) or "").split()[:1] == [str(session)]
                # What has left that session is the service's as well; see lockstep_service.
                if led or (pid and (bears(pid, mark_of(unit)) or serves(pid, folder))):
                    return service
            return who_listens(port)

        noted = {service: there[folder] for service, folder in folders.items() if folder in there}
        foreign = {port: folder for folder, port in there.items() if folder not in folders.values()}
        chosen = choose(placements, noted, foreign, listens, host)
        changed = False
        for service, port in chosen.items():
            if noted.get(service) != port or not os.path.isdir(folders[service]):
                os.makedirs(folders[service], mode=0o700, exist_ok=True)
                put(os.path.join(folders[service], "port"), "%d\n" % port)
                changed = True
    return {"changed": changed, "ports": chosen}


def main():
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "base": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
            "host": {"type": "str", "required": True},
            "placements": {"type": "list", "elements": "dict", "required": True},
            "fence": {"type": "dict", "required": True, "options": {
                "path": {"type": "path", "required": True}, "fence": {"type": "int", "required": True}, "job": {"type": "str", "required": True},
            }},
        }
    )  # fmt: skip
    try:
        module.exit_json(**apply(**module.params))
    except Refused as refused:
        module.fail_json(msg=str(refused), refused=True)
    except (KeyError, TypeError, ValueError) as error:
        module.fail_json(msg="a placement is not complete (%s: %s)" % (type(error).__name__, error))
    except PermissionError as error:
        user = pwd.getpwuid(os.geteuid()).pw_name
        module.fail_json(msg="ports cannot be noted on this host: %s. All environments of a host have the same user there; this job came as %s" % (error, user))
    except OSError as error:
        module.fail_json(msg="ports cannot be noted on this host: %s" % error)


if __name__ == "__main__":
    main()
