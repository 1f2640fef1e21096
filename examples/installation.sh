# shellcheck shell=bash
# An installation of its own for a command: hosts as containers, a Redis, and the service. It is taken away when the script that sources this
# ends; whatever else runs on this machine is left alone. Sourced, never run, by what needs more than a service that runs already:
#
#   begin <name> [program…]     a folder WORK, a network NAME, keys; the programs are needed beside those that are needed here
#   host <name> <address…>      a host as the container <name>, which jobs reach at these addresses
#   serve [VARIABLE=value…]     the service, with this besides what it needs anyway; and what its clients need is exported

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
LOCKSTEP=${LOCKSTEP:-$ROOT/target/release/lockstep}
# The service is started in another folder.
[[ $LOCKSTEP != */* ]] || LOCKSTEP=$(realpath -m -- "$LOCKSTEP")
export LOCKSTEP
# The processes that were begun here.
BEGUN=()

die() {
  printf 'error: %s\n' "$@" >&2
  exit 1
}

begin() {
  local name=$1 it
  shift
  for it in "$LOCKSTEP" docker redis-server ssh-keygen openssl curl python3 "$@"; do
    command -v "$it" >/dev/null || die "there is no program $it: run \`make demo\`, which makes the client too"
  done
  NAME=lockstep-$name-$$
  WORK=$(mktemp -d "${TMPDIR:-/tmp}/$NAME.XXXXXX")
  trap clear_away EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  # Keys of the hosts, and of whoever deploys to them. Runner containers have a user of their own.
  chmod 755 "$WORK"
  mkdir "$WORK/ssh" "$WORK/target" "$WORK/redis"
  ssh-keygen -q -t ed25519 -N '' -C "$NAME" -f "$WORK/ssh/id_ed25519"
  ssh-keygen -q -t ed25519 -N '' -C "$NAME" -f "$WORK/target/ssh_host_ed25519_key"
  cp "$WORK/ssh/id_ed25519.pub" "$WORK/target/authorized_keys"
  chown -R 10001 "$WORK/ssh"
  docker network create --label lockstep.project=lockstep "$NAME" >/dev/null
}

clear_away() {
  trap '' INT TERM
  set +e
  [ ${#BEGUN[@]} -eq 0 ] || kill "${BEGUN[@]}" 2>/dev/null
  wait
  # Runner containers that nobody waits for any more, then the hosts.
  docker ps -aq --filter "label=lockstep.instance=$NAME" | xargs -r docker rm -fv >/dev/null 2>&1
  docker ps -aq --filter "network=$NAME" | xargs -r docker rm -fv >/dev/null 2>&1
  docker network rm "$NAME" >/dev/null 2>&1
  rm -rf "$WORK"
}

host() {
  local name=$1 it
  shift
  for it in "$@"; do printf '%s %s\n' "$it" "$(cat "$WORK/target/ssh_host_ed25519_key.pub")" >>"$WORK/ssh/known_hosts"; done
  docker run -d --name "$name" --label lockstep.project=lockstep --network "$NAME" "${@/#/--network-alias=}" \
    -v "$WORK/target:/run/target:ro" "${TARGET_IMAGE:-lockstep-target:latest}" >/dev/null
}

serve() {
  local redis port token
  openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost -keyout "$WORK/tls.key" \
    -out "$WORK/tls.crt" -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=DNS:localhost,DNS:host.docker.internal 2>/dev/null
  # None that the kernel gives to outgoing connections, which would take it before it is listened at.
  read -r redis port < <(python3 -c '
import random, socket
free = []
for port in random.sample(range(15000, 32000), 1000):
    with socket.socket() as one:
        if one.connect_ex(("127.0.0.1", port)):
            free.append(port)
    if len(free) == 2:
        break
print(*free)')
  redis-server --port "$redis" --bind 127.0.0.1 --dir "$WORK/redis" --logfile "$WORK/redis.log" --appendonly yes --appendfsync always \
    --maxmemory-policy noeviction --save '' &
  BEGUN+=($!)
  token=$(openssl rand -hex 24)
  (
    cd "$WORK" || exit
    # What is set for the command is not the service's.
    runner=${LOCKSTEP_RUNNER_IMAGE:-lockstep-runner:latest} dispatcher=$LOCKSTEP pepper=$(openssl rand -hex 24)
    unset "${!LOCKSTEP_@}"
    export LOCKSTEP_INSTANCE=$NAME LOCKSTEP_LISTEN=0.0.0.0:$port LOCKSTEP_PUBLIC_URL=https://host.docker.internal:$port
    export LOCKSTEP_TLS_CERTIFICATE=$WORK/tls.crt LOCKSTEP_TLS_KEY=$WORK/tls.key LOCKSTEP_REDIS_URL=redis://127.0.0.1:$redis
    export LOCKSTEP_AUTH_PEPPER=$pepper LOCKSTEP_AUTH_OPERATORS=you:$token LOCKSTEP_FEED_AT_START=false
    # shellcheck disable=SC2163 # these are assignments
    export LOCKSTEP_RUNNER_IMAGE=$runner LOCKSTEP_RUNNER_PULL=never LOCKSTEP_RUNNER_NETWORK=$NAME "$@"
    # Killed, it is started again, as Docker would do it for the one of compose.
    trap 'kill "$service"; wait "$service"; exit' TERM
    code=137
    while [ "$code" -eq 137 ]; do
      "$dispatcher" serve >/dev/null 2>>"$WORK/log" &
      service=$! code=0
      printf '%s\n' "$service" >"$WORK/process"
      wait "$service" 2>/dev/null || code=$?
    done
  ) &
  BEGUN+=($!)
  until curl -sS --fail --max-time 5 --cacert "$WORK/tls.crt" -o /dev/null "https://localhost:$port/readyz" 2>/dev/null; do
    if ! kill -0 "${BEGUN[0]}" 2>/dev/null; then die "Redis has ended" "$(tail -n 20 "$WORK/redis.log")"; fi
    if ! kill -0 "${BEGUN[1]}" 2>/dev/null || [ "$SECONDS" -ge 60 ]; then die "the service is not ready" "$(tail -n 20 "$WORK/log")"; fi
    sleep 0.2
  done
  export LOCKSTEP_URL=https://localhost:$port LOCKSTEP_CA_CERT=$WORK/tls.crt LOCKSTEP_TOKEN=$token
}
