#!/usr/bin/env bash
# Runs a command beside a service that has all that the shop needs: two hosts as containers, its repositories, and a Redis of its own. It
# is made for the command and taken away after it; whatever else runs on this machine is left alone.
#
# usage: examples/orders/with-hosts.sh COMMAND…      as root, after `make demo`
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
ROOT=$(cd "$HERE/../.." && pwd -P)
LOCKSTEP=$(realpath "${LOCKSTEP:-$ROOT/target/release/lockstep}")
RUNNER=${LOCKSTEP_RUNNER_IMAGE:-lockstep-runner:latest} TARGET_IMAGE=${TARGET_IMAGE:-lockstep-target:latest}
NAME=lockstep-orders-$$
WORK=$(mktemp -d "${TMPDIR:-/tmp}/$NAME.XXXXXX")
pids=()

die() {
  printf 'error: %s\n' "$@" >&2
  exit 1
}

# shellcheck disable=SC2317 # it is called by a trap
clear_away() {
  trap '' INT TERM
  set +e
  [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null
  wait
  docker ps -aq --filter "label=lockstep.instance=$NAME" | xargs -r docker rm -fv >/dev/null 2>&1
  docker rm -fv "$NAME-one" "$NAME-two" >/dev/null 2>&1
  docker network rm "$NAME" >/dev/null 2>&1
  rm -rf "$WORK"
}
trap clear_away EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

[ $# -gt 0 ] || die "usage: examples/orders/with-hosts.sh COMMAND…"
for it in "$LOCKSTEP" docker redis-server ssh-keygen openssl curl python3 git; do
  command -v "$it" >/dev/null || die "there is no program $it: run \`make demo\`, which makes the client too"
done

# Keys of the hosts, and of whoever deploys to them.
chmod 755 "$WORK"
mkdir "$WORK/ssh" "$WORK/target" "$WORK/redis" "$WORK/repositories"
ssh-keygen -q -t ed25519 -N '' -C "$NAME" -f "$WORK/ssh/id_ed25519"
ssh-keygen -q -t ed25519 -N '' -C "$NAME" -f "$WORK/target/ssh_host_ed25519_key"
cp "$WORK/ssh/id_ed25519.pub" "$WORK/target/authorized_keys"
docker network create --label lockstep.project=lockstep "$NAME" >/dev/null
for host in one two; do
  printf '%s.shop.test %s\n' "$host" "$(cat "$WORK/target/ssh_host_ed25519_key.pub")" >>"$WORK/ssh/known_hosts"
  docker run -d --name "$NAME-$host" --label lockstep.project=lockstep --network "$NAME" --network-alias "$host.shop.test" \
    -v "$WORK/target:/run/target:ro" "$TARGET_IMAGE" >/dev/null
done
chown -R 10001 "$WORK/ssh"

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -keyout "$WORK/tls.key" -out "$WORK/tls.crt" \
  -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost,DNS:host.docker.internal 2>/dev/null
read -r redis port < <(python3 -c 'import socket
held = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(one.getsockname()[1] for one in held))')
redis-server --port "$redis" --bind 127.0.0.1 --dir "$WORK/redis" --appendonly yes --appendfsync always --maxmemory-policy noeviction --save '' >/dev/null &
pids+=($!)

TOKEN=$(openssl rand -hex 24)
(
  cd "$WORK"
  # What is set for the command is not the service's.
  unset "${!LOCKSTEP_@}"
  export LOCKSTEP_INSTANCE=$NAME LOCKSTEP_LISTEN=0.0.0.0:$port LOCKSTEP_PUBLIC_URL=https://host.docker.internal:$port
  export LOCKSTEP_TLS_CERTIFICATE=$WORK/tls.crt LOCKSTEP_TLS_KEY=$WORK/tls.key LOCKSTEP_REDIS_URL=redis://127.0.0.1:$redis
  LOCKSTEP_AUTH_PEPPER=$(openssl rand -hex 24)
  export LOCKSTEP_AUTH_PEPPER LOCKSTEP_AUTH_OPERATORS=you:$TOKEN LOCKSTEP_FEED_AT_START=false
  export LOCKSTEP_RUNNER_IMAGE=$RUNNER LOCKSTEP_RUNNER_PULL=never LOCKSTEP_RUNNER_NETWORK=$NAME
  export LOCKSTEP_RUNNER_MOUNTS=$WORK/ssh:/home/runner/.ssh:ro,$WORK/repositories:/srv/repositories:ro
  # Killed, it is started again, as Docker would do it for the one of compose.
  trap 'kill "$service"; wait "$service"; exit' TERM
  code=137
  while [ "$code" -eq 137 ]; do
    "$LOCKSTEP" serve >/dev/null 2>>"$WORK/log" &
    service=$! code=0
    printf '%s\n' "$service" >"$WORK/process"
    wait "$service" 2>/dev/null || code=$?
  done
) &
pids+=($!)
until curl -sS --fail --max-time 5 --cacert "$WORK/tls.crt" -o /dev/null "https://localhost:$port/readyz" 2>/dev/null; do
  if ! kill -0 "${pids[-1]}" 2>/dev/null || [ "$SECONDS" -ge 60 ]; then die "the service is not ready" "$(tail -n 20 "$WORK/log")"; fi
  sleep 0.2
done

export LOCKSTEP LOCKSTEP_URL=https://localhost:$port LOCKSTEP_CA_CERT=$WORK/tls.crt LOCKSTEP_TOKEN=$TOKEN
export REPOSITORIES=$WORK/repositories HOSTS=$NAME SERVICE_PROCESS=$WORK/process SERVICE_LOG=$WORK/log
code=0
"$@" || code=$?
exit "$code"
