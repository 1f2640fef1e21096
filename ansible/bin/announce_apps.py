#!/usr/bin/python3
"""The list of apps, as the inventories say it, to the dispatcher.

An app is what a host's variables name (mostly set for all hosts, in group_vars/all):

    lockstep_deployment_id, lockstep_deployment_secret   required for an app; hosts without an id are none
    lockstep_settings                                    optional: a mapping, added to the app's entry as it is. With
                                                         oidc in it, the app can do without a secret
    lockstep_announce                                    optional: false leaves the app out

Each inventory is read on its own, by Ansible's own loader, inventory and templating, because `ansible-inventory --list`
shows templates and single encrypted values as they are written, and a secret is nearly always one of the two.
One inventory that cannot be read stops everything: a list without its apps would take them away.
Nothing here prints a secret, except --print, which prints the list instead of posting it.
"""

import argparse
import http.client
import json
import os
import random
import ssl
import sys
import time
import urllib.parse

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
OWN_FIELDS = ("deployment_id", "deployment_secret", "inventory")

DATA, UNAVAILABLE, PROTOCOL, NO_PERMISSION, CONFIG = 65, 69, 76, 77, 78

TRY_TIMEOUT = 15  # seconds for one connection, and for each wait on it
LONGEST_PAUSE = 5  # seconds between two tries
LARGEST_ANSWER = 1 << 20  # bytes
# The dispatcher is there, or soon will be, and cannot say yes or no now.
PASSING = (429, 502, 503, 504)


class Failed(Exception):
    """The list was not delivered. `code` is the exit code; the message holds no secret."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code


# --- from inventories to apps -----------------------------------------------------------------------------------------


def plain(value):
    """Ansible's strings, lists and mappings as JSON's."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    return str(value)


def host_variables(path):
    """Yields (host, rendered) for each host of the inventory; rendered(name) is a variable's value or None."""
    from ansible import constants
    from ansible.cli import CLI
    from ansible.inventory.manager import InventoryManager
    from ansible.parsing.dataloader import DataLoader
    from ansible.template import Templar
    from ansible.vars.manager import VariableManager

    loader = DataLoader()
    loader.set_basedir(ROOT)
    secrets = CLI.setup_vault_secrets(loader, vault_ids=constants.DEFAULT_VAULT_IDENTITY_LIST, auto_prompt=False)
    loader.set_vault_secrets(secrets)
    inventory = InventoryManager(loader=loader, sources=[path])
    manager = VariableManager(loader=loader, inventory=inventory)
    for host in sorted(inventory.get_hosts(), key=lambda host: host.name):
        values = manager.get_vars(host=host)
        templar = Templar(loader=loader, variables=values)

        def rendered(name, values=values, templar=templar):
            return plain(templar.template(values[name])) if name in values else None

        yield host.name, rendered


def truth(value):
    return value if isinstance(value, bool) else str(value).strip().lower() in ("1", "true", "yes", "on")


def app_of(host, rendered, inventory):
    """The entry of this host's app, or None."""
    name = "lockstep_announce"
    try:
        announce = rendered(name)
        if announce is not None and not truth(announce):
            return None
        name = "lockstep_deployment_id"
        deployment_id = rendered(name)
        if deployment_id is None:
            return None
        name = "lockstep_deployment_secret"
        secret = rendered(name)
        name = "lockstep_settings"
        settings = rendered(name)
    except Exception as error:  # Ansible raises many kinds; for a secret, its text may quote the value
        reason = type(error).__name__ if name == "lockstep_deployment_secret" else str(error)
        raise Failed(DATA, f"inventory {inventory}, host {host}: {name} cannot be evaluated: {reason}") from None
    where = f"inventory {inventory}, host {host}"
    if not isinstance(deployment_id, str) or not deployment_id:
        raise Failed(DATA, f"{where}: lockstep_deployment_id must be a string that is not empty")
    if not isinstance(settings or {}, dict) or set(settings or {}) & set(OWN_FIELDS):
        raise Failed(DATA, f"{where}: lockstep_settings must be a mapping without {', '.join(OWN_FIELDS)}")
    app = {"deployment_id": deployment_id, "deployment_secret": secret, "inventory": inventory, **(settings or {})}
    if secret is None and app.get("oidc"):
        del app["deployment_secret"]
    elif not isinstance(secret, str) or not secret:
        raise Failed(DATA, f"{where}: lockstep_deployment_secret is missing or not a string")
    return app


def apps_of(path, inventory):
    """The apps of one inventory. Several hosts may carry one app; then they agree on it."""
    apps = {}
    try:
        for host, rendered in host_variables(path):
            app = app_of(host, rendered, inventory)
            if app and apps.setdefault(app["deployment_id"], app) != app:
                raise Failed(
                    DATA, f"inventory {inventory}: its hosts disagree about secret or settings of {app['deployment_id']}"
                )
    except Failed:
        raise
    except Exception as error:
        # What follows quotes the file around the error, and a secret may stand there.
        reason = str(error).split("The offending line")[0].strip()
        raise Failed(DATA, f"inventory {inventory} cannot be read: {reason}") from None
    return [apps[key] for key in sorted(apps)]


def all_apps(folder):
    """(apps, number of inventories). A deployment id belongs to one inventory."""
    try:
        names = sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except OSError as error:
        raise Failed(DATA, f"{folder} cannot be read: {error.strerror}") from None
    apps, owner = [], {}
    for name in names:
        for app in apps_of(os.path.join(folder, name), name):
            first = owner.setdefault(app["deployment_id"], name)
            if first != name:
                raise Failed(DATA, f"deployment id {app['deployment_id']} is in two inventories: {first} and {name}")
            apps.append(app)
    if not apps:
        raise Failed(DATA, f"none of the {len(names)} inventories in {folder} names an app")
    return apps, len(names)


# --- from apps to the dispatcher --------------------------------------------------------------------------------------


def scrubbed(text, apps):
    for secret in sorted((app["deployment_secret"] for app in apps), key=len, reverse=True):
        text = text.replace(secret, "***")
    return text


def tls(ca_cert):
    try:
        context = ssl.create_default_context()
        context.load_verify_locations(cafile=ca_cert)
        return context
    except (OSError, ssl.SSLError) as error:
        raise Failed(CONFIG, f"{ca_cert} is not a certificate: {error}") from None


def post(url, context, token, body):
    """One try: (status, headers, answer). Redirects are not followed: the token is for this address alone."""
    connection = http.client.HTTPSConnection(url.hostname, url.port or 443, timeout=TRY_TIMEOUT, context=context)
    try:
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        connection.request("POST", url.path.rstrip("/") + "/set-available-apps/", body, headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read(LARGEST_ANSWER)
    finally:
        connection.close()


def pause_before_next(attempt, retry_after):
    if (retry_after or "").isdigit():
        return min(float(retry_after), LONGEST_PAUSE)
    return min(0.25 * 2**attempt, LONGEST_PAUSE) * random.uniform(0.8, 1.0)


def judge(status, answer, apps):
    """The server's warnings when it took the list; raises Failed when it did not."""
    try:
        parsed = json.loads(answer)
        said = parsed if isinstance(parsed, dict) else {}
    except ValueError:
        said = {}
    reason = said.get("error") or said.get("detail") or said.get("title") or answer[:300].decode("utf-8", "replace")
    reason = scrubbed(str(reason), apps)
    if status in (401, 403):
        raise Failed(NO_PERMISSION, f"the dispatcher refused the credential ({status}): {reason}")
    if status != 200 or said.get("status") != "ok":
        raise Failed(PROTOCOL, f"the dispatcher did not take the list ({status}): {reason}")
    warnings = said.get("warnings") or []
    texts = [item if isinstance(item, str) else json.dumps(item, ensure_ascii=False) for item in warnings]
    return [scrubbed(text, apps) for text in texts]


def deliver(url, context, token, apps, seconds, say):
    """Posts until the dispatcher has said yes or no, or `seconds` have passed. Returns the warnings."""
    deadline = time.monotonic() + seconds
    body = json.dumps(apps, ensure_ascii=False).encode()
    attempt, told = 0, None
    while True:
        retry_after = None
        try:
            status, headers, answer = post(url, context, token, body)
            if status not in PASSING:
                return judge(status, answer, apps)
            trouble, retry_after = f"it answered {status}", headers.get("Retry-After")
        except ssl.SSLCertVerificationError as error:
            raise Failed(CONFIG, f"the certificate of {url.netloc} is not trusted: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            trouble = str(error) or type(error).__name__
        pause = pause_before_next(attempt, retry_after)
        if time.monotonic() + pause > deadline:
            raise Failed(UNAVAILABLE, f"the dispatcher at {url.netloc} did not take the list within {seconds:g} s: {trouble}")
        if trouble != told:
            say(f"waiting for the dispatcher at {url.netloc}: {trouble}")
            told = trouble
        time.sleep(pause)
        attempt += 1


def read_token(path):
    try:
        with open(path, encoding="ascii") as file:
            token = file.read().strip()
    except (OSError, ValueError):
        token = ""
    if not token or not token.isprintable():
        raise Failed(CONFIG, f"{path} holds no token")
    return token


def address(text):
    url = urllib.parse.urlsplit(text)
    if url.scheme != "https" or not url.hostname:
        raise Failed(CONFIG, f"LOCKSTEP_URL is {text!r}, it must be an https address")
    return url


def arguments(argv):
    parser = argparse.ArgumentParser(prog="announce_apps.py", description="Posts the list of apps to the dispatcher.")
    parser.add_argument("--inventories", default=os.path.join(ROOT, "inventories"))
    parser.add_argument("--print", action="store_true", help="print the list, secrets included, and post nothing")
    parser.add_argument("--url", help="the dispatcher's address")
    parser.add_argument("--token-file")
    parser.add_argument("--ca-cert", help="trusted in addition to the system's")
    seconds = os.environ.get("LOCKSTEP_ANNOUNCE_DEADLINE", "120")
    parser.add_argument("--deadline", type=float, default=seconds, help="seconds to try (%(default)s)")
    parsed = parser.parse_args(argv)
    if not parsed.print and not (parsed.url and parsed.token_file and parsed.ca_cert):
        parser.error("--url, --token-file and --ca-cert are required")
    return parsed


def main(argv):
    def say(text):
        print(f"announce-apps: {text}", flush=True)

    try:
        options = arguments(argv)
        if options.print:
            print(json.dumps(all_apps(options.inventories)[0], ensure_ascii=False, indent=2))
            return 0
        url, token, context = address(options.url), read_token(options.token_file), tls(options.ca_cert)
        apps, inventories = all_apps(options.inventories)
        say(f"{len(apps)} apps in {inventories} inventories: " + ", ".join(app["deployment_id"] for app in apps))
        warnings = deliver(url, context, token, apps, options.deadline, say)
        for warning in warnings:
            say(f"warning: {warning}")
        say(f"ok: the dispatcher knows {len(apps)} apps" + (f", {len(warnings)} warnings" if warnings else ""))
        return 0
    except Failed as failed:
        print(f"announce-apps: {failed}", file=sys.stderr, flush=True)
        return failed.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
