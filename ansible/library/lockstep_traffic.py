#!/usr/bin/python3
"""The proxy in front of the services of one host, and which version of each service it sends whom to.

A service has two slots. `live` is the one that everybody reaches (blue); `other` is the one beside it: a new version that is
tried (green), or, marked `retired`, the one that was live until a moment ago. All of it is one file, nginx.conf, whose first
lines hold what it was made from, so that the proxy and what is known about it cannot differ. Each call holds an exclusive
flock from reading to writing: services of one release are deployed by jobs that run at once.

    change   does
    show     nothing; a proxy that does not run (the host was restarted) is started
    renew    stops and forgets `other`, and empties the slot `folder`, which must not be live
    start    starts what is in the slot `folder`
    offer    puts a version into `other`, with a share of the traffic (canary)
    take     puts a version into `other` and swaps it with `live` (direct)
    switch   swaps `other` and `live` of all services named, which must be of the release, or does nothing
    back     swaps again what the release has switched and what has not been dropped since
    drop     stops and forgets what is in `other`, if it is of the release or retired; with `seen`, if it is the same still
    remove   the same, and forgets and stops what is live, if it is of the release

What is stopped is removed, in the same call: nobody can make it live in between, and a job that was overtaken stops nothing. `drop`
and `remove` remove what is in the slots `sweep` too, where the proxy does not know them: what died before it was offered.

Who is sent where:

    everybody      to `live`; a share of them to `other`. The share of a release is the lowest of its services', 0 while one of
                   them is missing, so that a client meets the new version of all of them or of none. When all have 100, all
                   are swapped, in that one change.
    green's tests  to `other`, on a port of their own
    a service      which calls another of the same release, to the one in its own colour: from `other` to `other`, from `live`
                   to `live`. Also right after a switch, for the requests that were under way. To a service that is not of its
                   release, as everybody.

A new file is written beside the old one, and takes its place by rename when `nginx -t` accepts it. Then nginx reads it, and the
call returns when the last worker with the old configuration is gone: from then on nobody is sent by it. When nginx does not
take it, the old file is put back.

Before a change the fence is compared once more: a job that was overtaken since it took the fence changes nothing. Settings of the proxy
(ports and the like) come with what sends somebody somewhere, and are kept in the file: what puts something back, or takes it away, is
not to fail by what a failing job has brought.

While workers of both are there, one request may be sent by either, and the calls that follow from it by the other. So each knows
the way from whatever the other sends to: a version is known first and gets traffic then, and loses traffic before it is forgotten.
"""

import copy
import json
import os
import re

from ansible.module_utils.lockstep_host import Nginx, Refused, compare_fence, locked, read
from ansible.module_utils.lockstep_slot import Slot

DOCUMENTATION = r"""
module: lockstep_traffic
short_description: Changes which version of a service the proxy of this host sends whom to
options:
  root: {description: Folder of the proxy on the target., type: path, required: true}
  port: {description: Where everybody comes., type: int, required: true}
  test_port: {description: Where the tests of green come., type: int, required: true}
  peer_port: {description: Where services come to reach each other; on the loopback alone., type: int, required: true}
  split_key: {description: By which variable of nginx clients are told apart for a share., type: str, default: $remote_addr}
  drain: {description: Seconds that requests under way are given when the configuration changes., type: int, default: 10}
  request: {description: "The change and what it needs; see the top of the file.", type: dict, required: true}
  fence_path: {description: Where this host keeps the fence of the inventory., type: path, required: true}
  fence: {description: The fence of the job that runs., type: int, required: true}
  job: {description: The id of the job that runs., type: str, required: true}
"""

MARK, KEPT_MARK = "# lockstep: ", "# settings: "
LINE = 2000  # bytes; nginx reads a comment as one word, and refuses one that is longer than its buffer of 4096
PORTS, KEPT = ("port", "test_port", "peer_port"), ("port", "test_port", "peer_port", "split_key", "drain")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")
KEY = re.compile(r"[A-Za-z0-9_$.-]{1,200}")
TURNS = 60  # as many changes may be before this one, each as long as its requests are drained


def lock_wait(settings):
    return TURNS * max(settings["drain"], 1)



# --- what is known, and how it changes: pure --------------------------------------------------------------------------


def lines(mark, value):
    text = json.dumps(value, sort_keys=True)
    size = LINE - len(mark)
    return "".join(mark + text[at : at + size] + "\n" for at in range(0, len(text), size))


def joined(mark, text):
    return "".join(line[len(mark) :] for line in text.split("\n") if line.startswith(mark))


def parse(text):
    """The state in the first lines of a configuration."""
    try:
        if not text.startswith(MARK):
            raise ValueError("its first line is not this module's")
        state = json.loads(joined(MARK, text))
        for entry in state.values():
            entry["live"], entry["other"]
        return state
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Refused("nginx.conf of the proxy is damaged (%s), so it is unknown what is live" % error) from None


def parse_kept(text):
    """The settings in a configuration; none in one that was written before they were kept there."""
    try:
        return dict(json.loads(joined(KEPT_MARK, text) or "{}"))
    except (ValueError, TypeError) as error:
        raise Refused("nginx.conf of the proxy is damaged (%s), so its settings are unknown" % error) from None


def checked(name):
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise Refused("%r is not the name of a service" % (name,))
    return name


def swap(state, names):
    """What was beside becomes live, and the other way round. What is retired remembers with whom."""
    for name in names:
        entry = state[name]
        entry["live"], entry["other"] = entry["other"], entry["live"]
        entry["live"].update(share=0, retired=False, bracket=[])
        if entry["other"]:
            entry["other"].update(share=0, retired=True, bracket=list(names))


def is_of(slot, release):
    return bool(slot) and slot["release"] == release


def share(state, name):
    """Percent of the traffic that goes to what is beside: the same for all services of a release."""
    other = state[name]["other"]
    if not other or other["retired"]:
        return 0
    members = [state.get(member, {}).get("other") for member in other["bracket"] or [name]]
    return min(member["share"] if is_of(member, other["release"]) and not member["retired"] else 0 for member in members)


def refuse_live_slot(entry, name, request):
    if entry["live"] and entry["live"]["slot"] == request["slot"]:
        raise Refused("slot %s of %s is live" % (request["slot"], name))


def may_go(name, slot, request):
    """Whether the caller may take away what is beside."""
    if "seen" in request:
        same = request["seen"].get(name) or {}
        return all(slot[key] == same.get(key) for key in ("slot", "release", "version", "retired"))
    return "release" not in request or slot["retired"] or is_of(slot, request["release"])


def refuse_taken_port(state, name, port, reserved):
    """A service that finds its port held dies; whoever asks it then is answered by the one that holds it."""
    if port in reserved:
        raise Refused("port %d of %s is the proxy's own" % (port, name))
    for peer, entry in state.items():
        for slot in entry.values():
            if slot and slot["port"] == port and peer != name:
                raise Refused("port %d of %s is that of %s" % (port, name, peer))


def change(state, request, reserved=()):
    """The state after the change; the one given is left alone."""
    state, what = copy.deepcopy(state), request["change"]
    names = [checked(name) for name in request.get("services") or []]
    release = str(request.get("release", ""))
    if what in ("offer", "take"):
        name = checked(request["service"])
        entry = state.setdefault(name, {"live": None, "other": None})
        refuse_live_slot(entry, name, request)
        refuse_taken_port(state, name, int(request["port"]), reserved)
        if entry["live"] and entry["live"]["port"] == int(request["port"]):
            raise Refused("port %s of %s is that of its other slot, which is live" % (request["port"], name))
        entry["other"] = {
            "slot": str(request["slot"]), "port": int(request["port"]), "folder": str(request["folder"]), "release": release,
            "version": str(request["version"]), "share": int(request.get("share", 0)), "retired": False,
            "bracket": sorted({name, *names}) if what == "offer" else [],
        }  # fmt: skip
        if what == "take":
            swap(state, [name])
        elif share(state, name) >= 100:
            swap(state, entry["other"]["bracket"])
    elif what == "switch":
        entries = {name: state.get(name, {"live": None, "other": None}) for name in names}
        missing = [name for name, entry in entries.items() if not any(is_of(slot, release) for slot in entry.values())]
        if missing or not names:
            raise Refused("nothing of release %s is there of %s; nothing was switched" % (release, ", ".join(missing) or "any service"))
        swap(state, [name for name, entry in entries.items() if not is_of(entry["live"], release)])
    elif what == "back":
        entries = {name: state[name] for name in names if name in state}
        swap(state, [name for name, entry in entries.items() if is_of(entry["live"], release) and entry["other"] and entry["other"]["retired"]])
    elif what == "renew":
        name = checked(request["service"])
        entry = state.get(name)
        if entry:
            refuse_live_slot(entry, name, request)
            entry["other"] = None
            if not entry["live"]:
                del state[name]
    elif what in ("drop", "remove"):
        for name in names:
            entry = state.get(name)
            if entry:
                if entry["other"] and may_go(name, entry["other"], request):
                    entry["other"] = None
                if what == "remove" and entry["live"] and ("release" not in request or is_of(entry["live"], release)):
                    entry["live"] = None
                if not entry["live"] and not entry["other"]:
                    del state[name]
    elif what not in ("show", "start"):
        raise Refused("unknown change %r" % (what,))
    return state


def way(state, request, reserved=()):
    """The states to go through, one after the other; the last one is the change."""
    states = [change(state, request, reserved)]
    if request["change"] in ("offer", "take"):
        other = state.get(request["service"], {}).get("other")
        if not other or (other["slot"], other["release"]) != (request["slot"], request.get("release", "")):
            states.insert(0, change(state, {**request, "change": "offer", "share": 0}, reserved))
    elif request["change"] in ("renew", "drop"):
        gone = [name for name, entry in state.items() if entry["other"] and not states[0].get(name, {}).get("other")]
        if any(share(state, name) for name in gone):
            calm = copy.deepcopy(state)
            for name in gone:
                calm[name]["other"]["share"] = 0
            states.insert(0, calm)
    return states


def folders(state):
    return {slot["folder"] for entry in state.values() for slot in entry.values() if slot}


def found(state, request):
    """What a role wants to know: of its service, of its release, and what may be stopped."""
    entry = state.get(request.get("service"), {"live": None, "other": None})
    wanted = (str(request.get("release", "")), str(request.get("version", "")))
    there = [place for place in ("live", "other") if entry[place] and (entry[place]["release"], entry[place]["version"]) == wanted]
    live, other = entry["live"], entry["other"]
    free = other["slot"] if other else "b" if live and live["slot"] == "a" else "a"
    names = list(request.get("services") or []) + [request.get("service")]
    retired = {name: known["other"] for name, known in state.items() if name in names and known["other"] and known["other"]["retired"]}
    return {
        "live": live, "other": other, "there": there[0] if there else "", "free": free, "retired": retired,
        "switched": is_of(live, wanted[0]), "slot": live["slot"] if there == ["live"] else free,
    }  # fmt: skip


# --- the configuration of nginx: pure ---------------------------------------------------------------------------------


def colour(other):
    return "old" if other["retired"] else "green"


def peer_colour(state, caller, place, peer, public):
    """In which colour a service, called from `place` of another, answers."""
    mine, other = state[caller][place], state[peer]["other"]
    if other and caller in other["bracket"]:
        return colour(other) if place == "other" else "blue"
    if place == "other" and not mine["retired"] and peer in mine["bracket"]:
        return "none"  # of the same release and not there: better no answer than one of another version
    return public.get(peer, "blue")


def render(state, settings):
    split, public, peers, addresses = [], {}, [], []
    for index, (name, entry) in enumerate(sorted(state.items())):
        percent = share(state, name)
        if percent and (percent >= 100 or not entry["live"]):
            public[name] = "green"
        elif percent:
            public[name] = "$lot_%d" % index
            split.append('split_clients "%s" $lot_%d { %d%% green; * blue; }' % (settings["split_key"], index, percent))
        if entry["live"]:
            addresses.append('"%s/blue" 127.0.0.1:%d;' % (name, entry["live"]["port"]))
        if entry["other"]:
            addresses.append('"%s/%s" 127.0.0.1:%d;' % (name, colour(entry["other"]), entry["other"]["port"]))
    for name, entry in sorted(state.items()):
        for place in ("live", "other"):
            for peer in sorted(state):
                if entry[place]:
                    seen = peer_colour(state, name, place, peer, public)
                    peers.append('"%s/%s/%s" %s;' % (name, entry[place]["slot"], peer, seen))

    def block(items):
        return "".join("\n    " + item for item in items)

    def server(listen, location, seen):
        return """  server {
    listen %s;
    location ~ "^%s(?<service>[A-Za-z0-9._-]+)/" {
      set $colour %s;
      if ($address = "") { return 503; }
      rewrite "^%s[^/]+(/.*)$" $1 break;
      proxy_pass http://$address;
    }
    location / { return 404; }
  }
""" % (listen, location[0], seen, location[1])

    root = settings["root"]
    return "".join(
        [
            lines(MARK, state),
            lines(KEPT_MARK, {key: settings[key] for key in KEPT}),
            "# Written by the module lockstep_traffic, from the lines above. Changes by hand are lost.\n",
            "worker_processes 1;\npid %s/nginx.pid;\nerror_log %s/error.log warn;\n" % (root, root),
            "worker_shutdown_timeout %ds;\n" % settings["drain"],
            "events { worker_connections 1024; }\nhttp {\n  access_log off;\n  default_type text/plain;\n",
            *["  %s_temp_path %s/temp/%s;\n" % (kind, root, kind) for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")],
            # How much a service takes is its own affair.
            "  client_max_body_size 0;\n",
            "  map_hash_bucket_size 1024;\n  map_hash_max_size 16384;\n  variables_hash_bucket_size 128;\n",
            "  proxy_http_version 1.1;\n  proxy_connect_timeout 5s;\n  proxy_set_header Connection \"\";\n  proxy_set_header Host $http_host;\n",
            "  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;\n  proxy_set_header Lockstep-Colour $colour;\n",
            *["  %s\n" % line for line in split],
            '  map "/$service" $public_colour {\n    default blue;%s\n  }\n' % block('"/%s" %s;' % pair for pair in sorted(public.items())),
            '  map "$caller/$slot/$service" $peer_colour {\n    default none;%s\n  }\n' % block(peers),
            '  map "$service/$colour" $address {\n    default "";%s\n  }\n' % block(addresses),
            server(settings["port"], ("/", "/"), "$public_colour"),
            server(settings["test_port"], ("/", "/"), "green"),
            server("127.0.0.1:%d" % settings["peer_port"], ("/(?<caller>[^/]+)/(?<slot>[ab])/", "/[^/]+/[ab]/"), "$peer_colour"),
            "}\n",
        ]
    )


# --- the proxy of this host -------------------------------------------------------------------------------------------


def go(nginx, texts, before):
    """Makes one configuration after the other the one that runs; where one is refused, goes back to the first."""
    now, changed = before, False
    for text in texts:
        if text == now and nginx.master() and not nginx.due():
            continue
        try:
            nginx.use(text, now)
        except Refused:
            if before is not None and now != before:
                nginx.use(before, now)
            raise
        now, changed = text, True
    return changed


def apply(settings, request, check_mode=False):
    """Compares, reads, changes, writes, starts and stops. Returns the result of the module; raises Refused."""
    if not KEY.fullmatch(settings["split_key"]):
        raise Refused("split_key %r is not a variable of nginx" % settings["split_key"])
    nginx, what = Nginx(settings), request["change"]
    if check_mode and not os.path.isdir(settings["root"]):
        return {"changed": what != "show", "state": {}, **found({}, request)}
    os.makedirs(settings["root"], exist_ok=True)
    with locked(nginx.file, lock_wait(settings)):
        if what != "show":
            compare_fence(settings["fence_path"], settings["fence"], settings["job"])
        before = read(nginx.file)
        state = parse(before) if before is not None else {}
        brings = what in ("offer", "take", "switch")
        kept = parse_kept(before) if before is not None else {}
        # What is on paper alone is made true before anything else; its settings may be why it is not.
        due = nginx.due() and what != "show"
        used = settings if brings or due else {**settings, **kept}
        # Workers end as their own configuration says.
        nginx.settings = {**used, "drain": max(settings["drain"], kept.get("drain", 0))}
        states = way(state, request, [settings[key] for key in PORTS])
        after = states[-1]
        changed = after != state
        if due and what in ("renew", "drop"):
            states.insert(0, state)
        if not check_mode:
            if what in ("offer", "take") or (what == "show" and request.get("folder")):
                Slot(request["folder"]).must_run()
            steps = [render(step, used) for step in states] if changed or brings or due else []
            # What nobody is sent to is stopped before it is forgotten, so that a repetition finds it. What is live is forgotten first.
            ready = steps[:-1] if what in ("renew", "drop") else steps
            changed |= go(nginx, ready, before)
            changed |= end(state, after, request)
            changed |= go(nginx, steps[len(ready) :], ready[-1] if ready else before)
            if not steps and before is not None and not nginx.master():
                nginx.start()
                changed = True
            if what == "start":
                changed |= Slot(request["folder"]).start()
        return {"changed": changed, "state": after, **found(after, request)}


def end(state, after, request):
    """Stops and removes what this change forgets, and what is in slots that nobody knows. Returns whether there was anything."""
    ends = set()
    if request["change"] in ("renew", "drop", "remove"):
        ends = folders(state) | set(request.get("sweep") or [])
    changed = False
    for folder in sorted(ends - folders(after)):
        changed |= Slot(folder).remove()
    if request["change"] == "renew":
        Slot(request["folder"]).empty()
        changed = True
    return changed


def main():
    from ansible.module_utils.basic import AnsibleModule

    module = AnsibleModule(
        argument_spec={
            "root": {"type": "path", "required": True},
            "port": {"type": "int", "required": True},
            "test_port": {"type": "int", "required": True},
            "peer_port": {"type": "int", "required": True},
            "split_key": {"type": "str", "default": "$remote_addr", "no_log": False},
            "drain": {"type": "int", "default": 10},
            "request": {"type": "dict", "required": True},
            "fence_path": {"type": "path", "required": True},
            "fence": {"type": "int", "required": True},
            "job": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    settings = dict(module.params)
    request = settings.pop("request")
    try:
        module.exit_json(**apply(settings, request, module.check_mode))
    except Refused as refused:
        module.fail_json(msg=str(refused), refused=True)
    except OSError as error:
        module.fail_json(msg="the proxy cannot be changed on this host: %s" % error)


if __name__ == "__main__":
    main()
