#!/usr/bin/env bash
# Starts the service and returns once it is ready.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

READY=https://localhost/readyz
PATIENCE_S=60

if docker info >/dev/null 2>&1; then refuse_others_service; fi
"$ROOT/scripts/setup.sh"
cd "$ROOT"
build_dispatcher
profile=()
[ "${1:-}" = insight ] && profile=(--profile insight)
step "Start the service" compose "${profile[@]}" up -d
began=$SECONDS
# Whether it is ready, and no more, is asked: a certificate of the operator's own need not be good for localhost.
until answer=$(curl -sS --max-time 5 --insecure -w '\n%{http_code}' "$READY" 2>&1) && [ "${answer##*$'\n'}" = 200 ]; do
  if [ $((SECONDS - began)) -ge "$PATIENCE_S" ]; then
    compose logs --tail 30 dispatcher >&2 || true
    die "the service is not ready after $PATIENCE_S s: $answer" "Its log is above. Try: make doctor"
  fi
  sleep 0.2
done
say "Lockstep is ready at https://localhost (documentation of the API: https://localhost/docs)"
