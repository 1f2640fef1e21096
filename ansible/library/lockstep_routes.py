#!/usr/bin/python3
"""The proxy of an environment: which domains it has, and which paths of them lead to which service.

All of it is one file, nginx.conf, whose first line holds what it was made from, so that the proxy and what is known about it cannot differ.
Beside it stands `hosts`, in the form of hosts(5), which leads each domain to the proxy; a DNS server may read it.

    change     does
    domains    gives each domain that is new a server, which has no routes; those that are there stay as they are
    routes     gives each domain its routes, and drops those that are not named

The longest prefix wins, at the borders of a path: /core takes /core and /core/x, not /corex. It is taken off: the service is asked for / and
/x, and told what was taken off in X-Forwarded-Prefix. With a prefix nginx asks for the path as it has read it (%2F has become /); without
one, the path goes on as it came. A domain without a route for a path, and a domain that is unknown, answer 404.

A new file takes the place of the old one as with lockstep_traffic: when `nginx -t` accepts it; where it does not, or nginx does not take it,
the old one serves on. The call returns when the last worker with the old file is gone, which is given `drain` seconds; WebSockets end then,
and clients open them anew. The fence is compared before.
"""

import hashlib
import json
import os
import re

from ansible.module_utils.lockstep_host import Nginx, Refused, compare_fence, locked, put, read

DOCUMENTATION = r"""
module: lockstep_routes
short_description: Changes domains and routes of the proxy of an environment
options:
  change: {description: "`domains` or `routes`.", type: str, required: true}
  root: {description: Folder of the proxy on the host., type: path, required: true}
  port: {description: Where it listens., type: int, required: true}
  address: {description: The proxy's IP address for the file `hosts`., type: str, required: true}
  domains: {description: All domains of the environment., type: list, elements: str, required: true}
  routes: {description: "Routes: domain, path, service, address and port.", type: list, elements: dict}
  drain: {description: Seconds that requests under way are given when the configuration changes., type: int, default: 10}
  fence: {description: "The job and its fence: path, fence and job.", type: dict, required: true}
"""

MARK = "# lockstep: "
DOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?([.][a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
# What stands in a location of nginx, in quotes, and means itself.
PATH = re.compile(r"(/[A-Za-z0-9._~!@+=:,-]+)*/?")
ADDRESS = re.compile(r"[A-Za-z0-9.-]+")
LOCK_WAIT = 60  # seconds; a change takes as long as its requests are drained


# --- what is known, and how it changes: pure --------------------------------------------------------------------------


def parse(text):
    """The state in the first line of a configuration: routes by domain."""
    first = text.split("\n", 1)[0]
    try:
        if not first.startswith(MARK):
            raise ValueError("its first line is not this module's")
        state = json.loads(first[len(MARK) :])
        for routes in state.values():
            for route in routes:
                route["path"], route["address"], route["port"], route["service"]
        return state
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("nginx.conf of the proxy is damaged (%s), so its routes are unknown" % error) from None


def checked_domain(domain):
    if not isinstance(domain, str) or len(domain) > 253 or not DOMAIN.fullmatch(domain):
        raise Refused("%r is not a domain in lower case" % (domain,))
    return domain


def checked_route(route):
    path, address = route["path"], route["address"]
    if not isinstance(path, str) or not path.startswith("/") or not PATH.fullmatch(path) or {"..", "."} & set(path.split("/")):
        raise Refused("%r is not a path that can be routed" % (path,))
    if not isinstance(address, str) or not ADDRESS.fullmatch(address) or not 0 < int(route["port"]) < 65536:
        raise Refused("%r, port %r, is not where a service can be" % (address, route["port"]))
    return {"path": path.rstrip("/") or "/", "service": str(route["service"]), "address": address, "port": int(route["port"])}


def change(state, what, domains, routes=()):
    """The state after the change; the one given is left alone."""
    domains = [checked_domain(domain) for domain in domains]
    if what == "domains":
        return {**{domain: [] for domain in domains}, **state}
    if what != "routes":
        raise Refused("unknown change %r" % (what,))
    after = {domain: [] for domain in domains}
    for route in routes:
        entry, own = checked_route(route), after.get(route["domain"])
        if own is None:
            raise Refused("the route %s of %r belongs to no domain of this environment" % (entry["path"], route["domain"]))
        if entry["path"] in [other["path"] for other in own]:
            raise Refused("%s of %s is routed twice" % (entry["path"], route["domain"]))
        own.append(entry)
    for own in after.values():
        own.sort(key=lambda entry: entry["path"])
    return after


def hosts(state, address):
    """The file in the form of hosts(5)."""
    return "# Written by the module lockstep_routes. Changes by hand are lost.\n" + "".join("%s %s\n" % (address, name) for name in sorted(state))


# --- the configuration of nginx: pure ---------------------------------------------------------------------------------


def locations(routes):
    for route in routes:
        path = route["path"] if route["path"] != "/" else ""
        target = "http://%s:%d" % (route["address"], route["port"])
        # Where a service leads elsewhere without its prefix, because it does not know that or is told it and does not care.
        inside = re.escape(path[1:])
        leads = ' proxy_redirect default; proxy_redirect "~^/(?!%s(?:/|$))(.*)$" "%s/$1";' % (inside, path) if path else ""
        yield "# service %s" % json.dumps(route["service"])
        for match in ('= "%s"' % path, '"%s/"' % path) if path else ('"/"',):
            yield 'location %s { set $prefix "%s"; proxy_pass %s%s;%s }' % (match, path, target, "/" if path else "", leads)
    if "/" not in [route["path"] for route in routes]:
        yield 'location / { return 404 "nothing is routed here\\n"; }'


def render(state, settings):
    root, port = settings["root"], settings["port"]
    lines = [
        MARK + json.dumps(state, sort_keys=True),
        "# Written by the module lockstep_routes, from the line above. Changes by hand are lost.",
        "worker_processes 1;",
        "pid %s/nginx.pid;" % root,
        "error_log %s/error.log warn;" % root,
        "worker_shutdown_timeout %ds;" % settings["drain"],
        "events { worker_connections 1024; }",
        "http {",
        "  access_log off;",
        "  server_tokens off;",
        "  default_type text/plain;",
        *["  %s_temp_path %s/temp/%s;" % (kind, root, kind) for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")],
        "  server_names_hash_bucket_size 512;",
        "  # How large a request may be, and how long a connection may be silent, is the services' business.",
        "  client_max_body_size 0;",
        "  proxy_read_timeout 1h;",
        "  proxy_send_timeout 1h;",
        "  proxy_connect_timeout 5s;",
        "  proxy_http_version 1.1;",
        '  map $http_upgrade $connection_upgrade { default upgrade; "" ""; }',
        "  proxy_set_header Host $http_host;",
        "  proxy_set_header Upgrade $http_upgrade;",
        "  proxy_set_header Connection $connection_upgrade;",
        "  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;",
        "  proxy_set_header X-Forwarded-Proto $scheme;",
        "  proxy_set_header X-Forwarded-Host $http_host;",
        "  proxy_set_header X-Forwarded-Prefix $prefix;",
        "  server {",
        "    listen %d default_server;" % port,
        '    set $prefix "";',
        '    return 404 "this domain is not known here\\n";',
        "  }",
    ]
    for domain, routes in sorted(state.items()):
        lines += ["  server {", "    listen %d;" % port, "    server_name %s;" % domain]
        lines += ["    " + line for line in locations(routes)]
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


# --- the proxy of this host -------------------------------------------------------------------------------------------


def apply(settings, what, domains, routes):
    """Compares, reads, changes, writes. Returns the result of the module; raises Refused."""
    nginx = Nginx(settings)
    os.makedirs(settings["root"], exist_ok=True)
    names = os.path.join(settings["root"], "hosts")
    with locked(nginx.file, LOCK_WAIT):
        compare_fence(**settings["fence"])
        before = read(nginx.file)
        state = change(parse(before) if before is not None else {}, what, domains, routes or ())
        text, changed = render(state, settings), False
        # A call that died may have written the file without telling nginx.
        serves = os.path.join(settings["root"], "serves")
        digest = hashlib.sha256(text.encode()).hexdigest()
        if text != before or read(serves) != digest or not nginx.master():
            nginx.use(text, before)
            put(serves, digest)
            changed = True
        lines = hosts(state, settings["address"])
        if lines != read(names):
            put(names, lines)
            changed = True
    return {"changed": changed, "domains": sorted(state), "anew": before is None}


def main():
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "change": {"type": "str", "required": True, "choices": ["domains", "routes"]},
            "root": {"type": "path", "required": True},
            "port": {"type": "int", "required": True},
            "address": {"type": "str", "required": True},
            "domains": {"type": "list", "elements": "str", "required": True},
            "routes": {"type": "list", "elements": "dict"},
            "drain": {"type": "int", "default": 10},
            "fence": {"type": "dict", "required": True, "options": {
                "path": {"type": "path", "required": True}, "fence": {"type": "int", "required": True}, "job": {"type": "str", "required": True},
            }},
        }
    )  # fmt: skip
    settings = dict(module.params)
    asked = [settings.pop(name) for name in ("change", "domains", "routes")]
    try:
        module.exit_json(**apply(settings, *asked))
    except Refused as refused:
        module.fail_json(msg=str(refused), refused=True)
    except (KeyError, TypeError, ValueError) as error:
        module.fail_json(msg="a route is not complete (%s: %s)" % (type(error).__name__, error))
    except OSError as error:
        module.fail_json(msg="the proxy cannot be changed on this host: %s" % error)


if __name__ == "__main__":
    main()
