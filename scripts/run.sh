#!/usr/bin/env bash
# Starts the service and returns once it is ready.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

READY=https://localhost/readyz
PATIENCE_S=60

"$ROOT/scripts/setup.sh"
cd "$ROOT"
build_dispatcher
# The service is one for this machine: two folders, each with its own secrets, would take it from each other.
owner=$(docker ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" | head -n 1 |
  xargs -r docker inspect -f '{{ index .Config.Labels "com.docker.compose.project.working_dir" }}')
if [ -n "$owner" ] && [ "$owner" != "$ROOT" ]; then
  die "the service runs already, from $owner" "Stop it there, or here: make stop (DATA=1 removes its data too, which this folder's keys cannot read)"
fi
profile=()
[ "${1:-}" = insight ] && profile=(--profile insight)
step "Start the service" compose "${profile[@]}" up -d
began=$SECONDS
until answer=$(curl -sS --max-time 5 --cacert certs/certificate.crt -w '\n%{http_code}' "$READY" 2>&1) && [ "${answer##*$'\n'}" = 200 ]; do
  if [ $((SECONDS - began)) -ge "$PATIENCE_S" ]; then
    compose logs --tail 30 dispatcher >&2 || true
    die "the service is not ready after $PATIENCE_S s: $answer" "Its log is above. Try: make doctor"
  fi
  sleep 0.2
done
say "Lockstep is ready at https://localhost (documentation of the API: https://localhost/docs)"
