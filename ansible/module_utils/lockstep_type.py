"""What the type of a service means: how it is built, what it needs on its host, and how it is started. Reads the files of a release, changes
nothing.
"""

import json
import os
import re
import shlex

from ansible.module_utils.lockstep_host import Refused, read

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def serves_files(kind):
    """Whether nginx serves it, and no process of its own is told anything."""
    return kind in ("angular", "static")


def package_of(files):
    text = read(os.path.join(files, "package.json"))
    if text is None:
        return {}
    try:
        package = json.loads(text)
    except ValueError as error:
        raise Refused("package.json is not JSON: %s" % error) from None
    if not isinstance(package, dict):
        raise Refused("package.json holds no object")
    return package


def scripts_of(package):
    scripts = package.get("scripts")
    return scripts if isinstance(scripts, dict) else {}


def web_line(files):
    """The line of a Procfile that starts what serves."""
    match = re.search(r"^web:[ \t]*(\S.*)$", read(os.path.join(files, "Procfile")) or "", re.MULTILINE)
    return match and match.group(1).strip()


def has_requirements(files):
    lines = (read(os.path.join(files, "requirements.txt")) or "").splitlines()
    return any(line.split("#", 1)[0].strip() for line in lines)


def build_steps(kind, files):
    """The commands that build, in order; run in the folder of the files."""
    if kind == "node":
        return [["npm", "ci", "--omit=dev"]] if package_of(files).get("dependencies") else []
    if kind == "angular":
        package = package_of(files)
        if "build" not in scripts_of(package):
            raise Refused("package.json has no script `build`")
        dependencies = package.get("dependencies") or package.get("devDependencies")
        return [["npm", "ci"]] * bool(dependencies) + [["npm", "run", "build"]]
    if kind == "python" and has_requirements(files):
        return [["python3", "-m", "venv", "../venv"], ["../venv/bin/pip", "install", "--no-input", "--disable-pip-version-check", "-r", "requirements.txt"]]
    return []


def needed(kind, steps):
    programs = {"node": ["node"], "python": ["python3"], "angular": ["node", "nginx"], "static": ["nginx"]}[kind]
    return ["runsvdir", "runsv", "sv", "svlogd", "chpst", *programs, *["npm"] * any(step[0] == "npm" for step in steps)]


def public_folder(kind, files):
    """What nginx serves, relative to the files."""
    if kind == "static":
        places = ["public", "."]
    else:
        inner = [os.path.join("dist", name) for name in sorted(os.listdir(os.path.join(files, "dist")))] if os.path.isdir(os.path.join(files, "dist")) else []
        places = ["dist", *inner, *[os.path.join(name, "browser") for name in inner]]
    for place in places:
        # A link as the folder itself would lead anywhere: nginx looks at those within alone.
        inside = os.path.realpath(os.path.join(files, place)) == os.path.normpath(os.path.join(os.path.realpath(files), place))
        if inside and os.path.isfile(os.path.join(files, place, "index.html")):
            return place
    raise Refused("there is no index.html in %s" % (", ".join(places).replace("., ", "") if kind == "static" else "dist, dist/* or dist/*/browser"))


def command(kind, files):
    """What is started, in the folder of the files: a line for sh."""
    if serves_files(kind):
        return "exec nginx -p %s -c nginx.conf -e stderr" % shlex.quote(os.path.dirname(files))
    line = web_line(files)
    if line:
        return "exec sh -c %s" % shlex.quote(line)
    if kind == "python":
        for name in ("app.py", "main.py"):
            if os.path.isfile(os.path.join(files, name)):
                return "exec python3 " + name
        raise Refused("there is neither a Procfile with a line `web:`, nor app.py, nor main.py")
    package = package_of(files)
    start = scripts_of(package).get("start")
    if isinstance(start, str) and start.strip():
        return "exec sh -c %s" % shlex.quote(start)
    main = package.get("main") if isinstance(package.get("main"), str) and package["main"] else "index.js"
    if not any(os.path.exists(os.path.join(files, main + end)) for end in ("", ".js")):
        raise Refused("there is neither a Procfile with a line `web:`, nor a script `start` in package.json, nor %s" % main)
    return "exec node %s" % shlex.quote("./" + main)


def start_script(kind, files, port):
    own = {"node": "$PWD/node_modules/.bin:", "python": "${PWD%/files}/venv/bin:"}.get(kind, "")
    more = "export PYTHONUNBUFFERED=1\n" if kind == "python" else ""
    return (
        "#!/bin/sh\n# Starts this release. Its environment is read from the files beside it.\n"
        "cd %s || exit 1\n. ../environment.env\nexport PORT=%d HOST=0.0.0.0\nexport PATH=\"%s%s\"\n%s%s\n"
    ) % (shlex.quote(files), port, own, PATH, more, command(kind, files))  # fmt: skip


def nginx_conf(kind, release, port, place):
    """Serves the files of a front. Names that begin with a dot are nobody's business."""
    temp = "".join("  %s_temp_path %s/temp/%s;\n" % (name, release, name) for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return """daemon off;
worker_processes 1;
pid %s/nginx.pid;
error_log stderr warn;
events { worker_connections 512; }
http {
  include /etc/nginx/mime.types;
  types { application/javascript mjs; }
  default_type application/octet-stream;
  access_log off;
  server_tokens off;
  absolute_redirect off;
%s  gzip on;
  gzip_types text/css text/javascript application/javascript application/json image/svg+xml;
  server {
    listen %d;
    root "%s";
    # A link of the repository could lead to any file of this user, secrets of others among them.
    disable_symlinks on from=$document_root;
    location ~ "/[.](?!well-known/)" { return 404; }
    location / { try_files $uri $uri/ %s; }
  }
}
""" % (release, temp, port, os.path.normpath(os.path.join(release, "files", place)), "/index.html" if kind == "angular" else "=404")  # fmt: skip
