#!/usr/bin/python3
"""Entrypoint of the runner container: turns the container's command into one run of Ansible.

    app-deploy <inventory> <job_id>        playbooks/app-deploy.yml on inventories/<inventory>
    play <playbook> <inventory> <job_id>   playbooks/<playbook>.yml on inventories/<inventory>
    order <task> <inventory> <job_id>      playbooks/order-<task>.yml; <inventory> is <environment>/<service>, see below
    announce-apps                          the list of apps, made from inventories/, to the dispatcher

After the checks this process becomes ansible-playbook, so that a signal reaches it and the exit code is its own.
The checks end with codes that ansible-playbook does not use, and what was refused is left as the job's report, like the last one of a run
(plugins/callback/lockstep.py):

    64  unknown action or wrong arguments     73  no writable temporary folder
    65  vars.json is not what it must be      78  a file of /run/lockstep, a variable of the environment, or an order's SSH key is missing
    66  no such inventory or playbook

An order has no folder in inventories/: its hosts stand in the one variable of vars.json, `lockstep_order`, because services are placed by the
dispatcher. Ansible evaluates templates in the variables of an inventory, so each value that gets into this one is matched against a pattern
here. A host whose key is given is known by that key alone.

announce-apps adds 65 (an inventory cannot be read), 69 (the dispatcher was not reached in time), 76 (it answered
something unexpected or refused the list) and 77 (it refused the credential).
"""

import contextlib
import json
import os
import pwd
import re
import shlex
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# LOCKSTEP_RUN_DIR is for runs by hand and for tests.
RUN = os.environ.get("LOCKSTEP_RUN_DIR", "/run/lockstep")
LEFT = os.path.join(RUN, "report.json")
# Mounted by the operator where inventories are encrypted; Ansible's own variable goes first.
VAULT_PASSWORD = "/run/secrets/vault-password"

USAGE, DATA, NO_INPUT, CANNOT_CREATE, CONFIG = 64, 65, 66, 73, 78

# The name of a folder or a playbook, never a path or an option.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,252}")
JOB_ID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
FENCE = re.compile(r"[1-9][0-9]{0,19}")
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
# Type and key, as in known_hosts; a comment may follow.
HOST_KEY = re.compile(r"((?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[a-z0-9@.-]+ [A-Za-z0-9+/]+={0,3})( [ -~]*)?")
# What means something else to Ansible than a host.
NO_HOSTS = ("all", "hosts", "localhost", "proxy", "ungrouped")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Refused(Exception):
    """The run does not begin. `code` is the exit code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


def checked(pattern, what, value):
    if not pattern.fullmatch(value):
        raise Refused(USAGE, f"{what} {value[:80]!r} is not valid")
    return value


def run_file(name):
    """Path of a file that the dispatcher puts into the container."""
    path = os.path.join(RUN, name)
    try:
        with open(path, "rb"):
            return path
    except OSError as error:
        raise Refused(
            CONFIG,
            f"{path} cannot be read ({error.strerror}): the dispatcher puts it there; "
            "when running by hand, mount a folder with vars.json, token and ca.crt",
        ) from error


def required(environ, name):
    value = environ.get(name, "")
    if not value:
        raise Refused(CONFIG, f"the variable {name} is missing from the environment: the dispatcher sets it")
    return value


def same_as_environment(environ, name, value):
    """Argument and environment say the same thing twice; where they differ, neither is to be trusted."""
    if environ.setdefault(name, value) != value:
        raise Refused(CONFIG, f"{name} is {environ[name][:80]!r}, the argument is {value!r}")


def literal(value):
    """The value, marked so that Ansible never evaluates a template in it.

    vars come from outside. Ansible evaluates templates in extra variables, on the controller, and
    `{{ lookup('pipe', …) }}` is one.
    """
    if isinstance(value, str):
        return {"__ansible_unsafe": value}
    if isinstance(value, list):
        return [literal(item) for item in value]
    if isinstance(value, dict):
        for key in value:
            if key.startswith("__ansible") or "{{" in key or "{%" in key:
                raise Refused(DATA, f"vars.json: the key {key[:80]!r} is not allowed")
        return {key: literal(item) for key, item in value.items()}
    return value


def extra_vars(path):
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except ValueError as error:
        # The error's text may quote the file, whose values may be secret.
        raise Refused(DATA, f"{path} is not JSON in UTF-8 ({type(error).__name__})") from error
    if not isinstance(values, dict):
        raise Refused(DATA, f"{path} holds a {type(values).__name__}, it must be an object")
    for name in values:
        if not VARIABLE.fullmatch(name):
            raise Refused(DATA, f"{path}: {name[:80]!r} is not the name of a variable")
        if name.startswith("ansible_"):
            raise Refused(DATA, f"{path}: {name[:80]!r}: variables of Ansible's own cannot be set by a job")
    return values


def private_folder():
    try:
        return tempfile.mkdtemp(prefix="lockstep-")
    except OSError as error:
        raise Refused(
            CANNOT_CREATE, f"no temporary folder can be made ({error.strerror}): with a read-only root, give /tmp a tmpfs"
        ) from error


def write(path, text):
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    return path


def prepare(environ, folder):
    """Environment of a run whose only writable place is `folder`, under whatever uid."""
    environ.setdefault("ANSIBLE_CONFIG", os.path.join(ROOT, "ansible.cfg"))
    environ.setdefault("ANSIBLE_HOME", os.path.join(folder, "ansible"))
    environ.setdefault("ANSIBLE_LOCAL_TEMP", os.path.join(folder, "tmp"))
    environ.setdefault("ANSIBLE_SSH_CONTROL_PATH_DIR", os.path.join(folder, "cp"))
    environ.setdefault("PYTHONUNBUFFERED", "1")
    if not environ.get("ANSIBLE_VAULT_PASSWORD_FILE") and os.access(VAULT_PASSWORD, os.R_OK):
        environ["ANSIBLE_VAULT_PASSWORD_FILE"] = VAULT_PASSWORD
    if environ.get("HOME", "/") == "/":
        environ["HOME"] = "/home/runner"
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        uid, gid, home = os.getuid(), os.getgid(), environ["HOME"]
        environ["NSS_WRAPPER_PASSWD"] = write(f"{folder}/passwd", f"runner:x:{uid}:{gid}::{home}:/bin/sh\n")
        environ["NSS_WRAPPER_GROUP"] = write(f"{folder}/group", f"runner:x:{gid}:\n")
        environ["LD_PRELOAD"] = "libnss_wrapper.so"


def app_deploy(arguments, environ):
    if len(arguments) != 2:
        raise Refused(USAGE, "usage: app-deploy <inventory> <job_id>")
    run_playbook("app-deploy", *arguments, environ)


def play(arguments, environ):
    if len(arguments) != 3:
        raise Refused(USAGE, "usage: play <playbook> <inventory> <job_id>")
    run_playbook(*arguments, environ)


def run_playbook(name, inventory, job_id, environ):
    checked(NAME, "playbook", name)
    checked(NAME, "inventory", inventory)
    checked(JOB_ID, "job_id", job_id)
    playbook = playbook_of(name)
    path = os.path.join(ROOT, "inventories", inventory)
    if not os.path.exists(path):
        raise Refused(NO_INPUT, f"inventory {inventory!r} is not in {os.path.dirname(path)} of this image")
    values = given(inventory, job_id, environ)
    folder = private_folder()
    prepare(environ, folder)
    become_ansible(playbook, path, values, folder, environ)


def order(arguments, environ):
    if len(arguments) != 3:
        raise Refused(USAGE, "usage: order <task> <environment>/<service> <job_id>")
    task, inventory, job_id = arguments
    checked(NAME, "task", task)
    environment, _, service = inventory.partition("/")
    for part in (environment, service):
        if not NAME.fullmatch(part):
            raise Refused(USAGE, f"inventory {inventory[:80]!r} is not <environment>/<service>")
    checked(JOB_ID, "job_id", job_id)
    playbook = playbook_of("order-" + task)
    values = given(inventory, job_id, environ)
    folder = private_folder()
    prepare(environ, folder)
    try:
        common = environ.get("ANSIBLE_SSH_COMMON_ARGS", "")
        hosts, known_hosts = order_inventory(values, task, environment, service, folder, environ["HOME"], common)
    except (KeyError, TypeError, AttributeError) as error:
        raise Refused(DATA, f"vars.json: lockstep_order is not complete ({type(error).__name__}: {error})") from error
    write(os.path.join(folder, "known_hosts"), known_hosts)
    become_ansible(playbook, write(os.path.join(folder, "hosts.json"), json.dumps(hosts)), values, folder, environ)


def order_inventory(values, task, environment, service, folder, home, common=""):
    """The inventory of an order's job and its known_hosts. Everything in it was matched against a pattern."""

    def must(holds, what, value):
        if not holds:
            raise Refused(DATA, f"vars.json: {what} {str(value)[:80]!r} is not valid")
        return value

    def name(what, value):
        return must(isinstance(value, str) and NAME.fullmatch(value), what, value)

    def port(what, value):
        return must(type(value) is int and 0 < value < 65536, what, value)

    must(list(values) == ["lockstep_order"], "instead of lockstep_order alone:", ", ".join(values))
    told = values["lockstep_order"]
    must(told["environment"] == environment, "lockstep_order.environment", told["environment"])
    must(told["task"] == task, "lockstep_order.task", told["task"])
    name("lockstep_order.mode", told["mode"])
    if task == "service":
        must(told["service"]["id"] == service, "lockstep_order.service.id", told["service"]["id"])
    hosts, known = {}, []
    for host in told["hosts"]:
        own = name("the name of a host", host["name"])
        must(own not in NO_HOSTS and own not in hosts, "the name of a host", own)
        address = host["address"]
        must(isinstance(address, str) and HOST_NAME.fullmatch(address), f"the address of {own}", address)
        hosts[own] = {
            "ansible_host": address,
            "ansible_port": port(f"the port of {own}", host["port"]),
            "ansible_user": name(f"the user of {own}", host["user"]),
        }
        # Services listen on IPv4, and their health is asked for where ssh has reached the host.
        options = ["AddressFamily=inet"]
        if host["key"] is not None:
            key = os.path.join(home, ".ssh", name(f"the key of {own}", host["key"]))
            if not os.access(key, os.R_OK):
                raise Refused(CONFIG, f"the key of {own} is to be {key}, which cannot be read: the operator mounts it there")
            hosts[own]["ansible_ssh_private_key_file"] = key
            options.append("IdentitiesOnly=yes")
        if host["host_key"] is not None:
            key = isinstance(host["host_key"], str) and HOST_KEY.fullmatch(host["host_key"])
            must(key, f"the host key of {own}", host["host_key"])
            where = address.lower() if host["port"] == 22 else f"[{address.lower()}]:{host['port']}"
            known.append(f"{where} {key.group(1)}\n")
            options += [f"UserKnownHostsFile={folder}/known_hosts", "GlobalKnownHostsFile=/dev/null"]
        # Of two values ssh takes the first. What else the operator says counts too: a bastion's ProxyJump in runner.env, for instance.
        said = ["-o " + shlex.quote(option) for option in options] + [common]
        hosts[own]["ansible_ssh_common_args"] = " ".join(said).strip()
    proxy = name("the host of the proxy", told["proxy"]["host"])
    port("the port of the proxy", told["proxy"]["port"])
    # A job for services is given their hosts alone.
    must(proxy in hosts or task in ("service", "variables"), "lockstep_order.hosts, without the proxy's,", ", ".join(hosts))
    must(hosts, "lockstep_order.hosts", told["hosts"])
    groups = {"hosts": {"hosts": hosts}, "proxy": {"hosts": {proxy: {}} if proxy in hosts else {}}}
    return {"all": {"children": groups}}, "".join(known)


def playbook_of(name):
    path = os.path.join(ROOT, "playbooks", name + ".yml")
    if not os.path.exists(path):
        raise Refused(NO_INPUT, f"playbook {name!r} is not in {os.path.dirname(path)} of this image")
    return path


def given(inventory, job_id, environ):
    """What the dispatcher gives to every job, checked; returns the variables."""
    same_as_environment(environ, "LOCKSTEP_INVENTORY", inventory)
    same_as_environment(environ, "LOCKSTEP_JOB_ID", job_id)
    if not FENCE.fullmatch(required(environ, "LOCKSTEP_FENCE")):
        raise Refused(CONFIG, f"LOCKSTEP_FENCE is {environ['LOCKSTEP_FENCE'][:80]!r}, it must be a number above 0")
    required(environ, "LOCKSTEP_URL")
    run_file("token")
    run_file("ca.crt")
    return extra_vars(run_file("vars.json"))


def become_ansible(playbook, inventory, values, folder, environ):
    file = write(os.path.join(folder, "vars.json"), json.dumps(literal(values)))
    command = ["ansible-playbook", "-i", inventory, "-e", f"@{file}", playbook]
    os.execvpe(command[0], command, environ)


def announce_apps(arguments, environ):
    if arguments:
        raise Refused(USAGE, "usage: announce-apps")
    url, token, ca = required(environ, "LOCKSTEP_URL"), run_file("token"), run_file("ca.crt")
    prepare(environ, private_folder())
    command = [os.path.join(ROOT, "bin", "announce_apps.py"), "--url", url, "--token-file", token, "--ca-cert", ca]
    os.execve(command[0], command, environ)


def leave(message):
    """For the dispatcher, which reads it from the ended container of a job that an order or a release depends on."""
    report = {"failures": [{"host": "runner", "task": "before the playbook", "message": message}]}
    with contextlib.suppress(OSError), open(LEFT, "r+b") as file:
        file.write(json.dumps(report).encode())


ACTIONS = {"app-deploy": app_deploy, "announce-apps": announce_apps, "order": order, "play": play}


def main(argv, environ):
    try:
        if not argv or argv[0] not in ACTIONS:
            known = ", ".join(sorted(ACTIONS))
            raise Refused(USAGE, f"unknown action {argv[0][:80]!r}: known are {known}" if argv else f"no action: known are {known}")
        ACTIONS[argv[0]](argv[1:], environ)
    except Refused as refused:
        print(f"lockstep: {refused}", file=sys.stderr, flush=True)
        leave(str(refused))
        return refused.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], dict(os.environ)))
