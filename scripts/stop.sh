#!/usr/bin/env bash
# Stops the service and the demo's host. Runner containers go on to their end: their jobs are adopted at the next start.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$ROOT"
# It must be set and is not used here.
export LOCKSTEP_SSH_DIR=${LOCKSTEP_SSH_DIR:-$ROOT/.demo/ssh}
docker info >/dev/null 2>&1 || die "no engine answers, so nothing of Lockstep runs"
options=()
[ "${DATA:-}" = 1 ] && options=(--volumes)
compose --profile insight down "${options[@]}"
docker rm -f lockstep-demo-target >/dev/null 2>&1 || true
say "Stopped.${DATA:+ Data is removed.}"
