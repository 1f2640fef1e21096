#!/usr/bin/env bash
# Runs a command beside a service that has all that the brackets need: the host of the three stages, the apps, and what their jobs run. It
# is made for the command and taken away after it.
#
# usage: examples/brackets/with-service.sh COMMAND…      as root, after `make demo`
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$HERE/../installation.sh"

[ $# -gt 0 ] || die "usage: examples/brackets/with-service.sh COMMAND…"
begin brackets
host "$NAME" dev.foo.test hardening.foo.test production.foo.test
TARGET=$(docker container inspect -f "{{ (index .NetworkSettings.Networks \"$NAME\").IPAddress }}" "$NAME")
mounts=$WORK/ssh:/home/runner/.ssh:ro,$HERE/inventories:/ansible/inventories:ro,$HERE/services:/ansible/services:ro
actions="app-deploy=app-deploy {inventory} {job_id};announce-apps=announce-apps"
for playbook in "$HERE"/playbooks/*.yml; do
  name=$(basename "$playbook" .yml)
  mounts+=,$playbook:/ansible/playbooks/$name.yml:ro
  actions+=";$name=play $name {inventory} {job_id}"
done
serve LOCKSTEP_EGRESS_ALLOW=127.0.0.0/8 LOCKSTEP_RUNNER_ACTIONS="$actions" LOCKSTEP_RUNNER_MOUNTS="$mounts"
export TARGET
"$LOCKSTEP" apps set "$HERE/apps.json"
"$@"
