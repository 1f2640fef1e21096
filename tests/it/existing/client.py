"""A client as they are in the field: asks for a deployment, polls, prints what is new, ends with the outcome.

Usage: client.py <url> <CA certificate> <deployment id> <secret> <pause in seconds>

It knows no resuming and no second address: it gives up on a connection that is refused, and on an answer without a text `output`.
"""

import http.client
import json
import ssl
import sys
import time
import urllib.parse

TRIES = 10


def ask(path, body):
    """One request on a connection of its own; an answer other than 200 is tried again."""
    for _ in range(TRIES):
        connection = http.client.HTTPSConnection(url.hostname, url.port, context=context, timeout=60)
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status == 200:
            return json.loads(text)
        print(path, answer.status, text, file=sys.stderr, flush=True)
        if path == "/job-status/" and not isinstance(json.loads(text).get("output"), str):
            sys.exit("an answer without output: %s" % text)
        time.sleep(pause)
    sys.exit("no success after %d tries" % TRIES)


url = urllib.parse.urlsplit(sys.argv[1])
context = ssl.create_default_context(cafile=sys.argv[2])
credentials = {"deployment_id": sys.argv[3], "deployment_secret": sys.argv[4]}
pause = float(sys.argv[5])

started = ask("/app-deploy/", credentials)
if "job_id" not in started:
    sys.exit("refused: %s" % started)
seen = ""
while True:
    job = ask("/job-status/", {"job_id": started["job_id"], **credentials})
    if not isinstance(job.get("output"), str):
        sys.exit("an answer without output: %s" % job)
    sys.stdout.write(job["output"][len(seen) :])
    sys.stdout.flush()
    seen = job["output"]
    if job["status"] in ("success", "error"):
        sys.exit(0 if job["status"] == "success" else 1)
    time.sleep(pause)
