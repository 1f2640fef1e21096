#!/usr/bin/env bash
# Runs a command beside a service that has all that the shop needs: two hosts as containers, and its repositories. It is made for the
# command and taken away after it.
#
# usage: examples/orders/with-hosts.sh COMMAND…      as root, after `make demo`
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/../installation.sh"

[ $# -gt 0 ] || die "usage: examples/orders/with-hosts.sh COMMAND…"
begin orders git
host "$NAME-one" one.shop.test
host "$NAME-two" two.shop.test
mkdir "$WORK/repositories"
serve LOCKSTEP_RUNNER_MOUNTS="$WORK/ssh:/home/runner/.ssh:ro,$WORK/repositories:/srv/repositories:ro"
export REPOSITORIES=$WORK/repositories HOSTS=$NAME SERVICE_PROCESS=$WORK/process SERVICE_LOG=$WORK/log
"$@"
