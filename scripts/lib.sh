# shellcheck shell=bash
# What the other scripts share: messages, the progress of long steps, and finding out what the machine has.
# Sourced, never run. Everything is relative to the repository's root.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
LOG_DIR=$ROOT/.demo/log
# Every image and network made here carries this label, so that `make stop` finds its own and nothing else.
# shellcheck disable=SC2034 # used by those who source this
LABEL=lockstep.project=lockstep
# The same whatever the folder is called; as a variable, because compose 1.29 knows no `name` in the file. It stands in `.env`
# too, for whoever calls compose by hand.
export COMPOSE_PROJECT_NAME=lockstep
# BuildKit is used where the CLI has it; the CLI's notice that it has not is of no use to anybody.
export BUILDKIT_PROGRESS=plain

say() { printf '%s\n' "$*"; }
warn() { printf 'warning: %s\n' "$*" >&2; }
die() {
  printf 'error: %s\n' "$1" >&2
  shift
  local line
  for line in "$@"; do printf '       %s\n' "$line" >&2; done
  exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# step <what> <command…>: runs a long command with its output in a log file, and says every few seconds how far it is.
# The reader is driven by the command's own output, so nothing is delayed by the reporting.
step() {
  local what=$1 log every=5 start status
  shift
  mkdir -p "$LOG_DIR"
  log=$LOG_DIR/$(tr -cs 'a-z0-9\n' '-' <<<"${what,,}" | cut -c1-60).log
  [ -t 1 ] || every=15
  start=$SECONDS
  say "==> $what"
  set +o pipefail
  { "$@" 2>&1 </dev/null; printf '\nexit status %d\n' $?; } | tee "$log" | report_progress "$every"
  set -o pipefail
  status=$(sed -n '$s/^exit status //p' "$log")
  if [ "${status:-1}" -ne 0 ]; then
    tail -n 40 "$log" | sed 's/^/    /' >&2
    die "\"$what\" failed after $((SECONDS - start)) s" "The whole output is in ${log#"$ROOT"/}"
  fi
  say "    done in $((SECONDS - start)) s"
}

report_progress() {
  local every=$1 line last='' began=$SECONDS told=$SECONDS code
  while true; do
    code=0
    IFS= read -r -t "$every" line || code=$?
    [ "$code" -eq 0 ] && [ -n "$line" ] && last=$line
    if [ "$code" -ne 0 ] && [ "$code" -le 128 ]; then return 0; fi # end of the output; above 128 it is the time
    if [ $((SECONDS - told)) -ge "$every" ]; then
      printf '    %3d s: %.100s\n' $((SECONDS - began)) "${last//$'\r'/}"
      told=$SECONDS
    fi
  done
}

# docker-compose of Debian (1.29) or the plugin (v2): the compose file is written for both.
compose() {
  if docker compose version >/dev/null 2>&1; then
    docker compose --project-directory "$ROOT" "$@"
  elif have docker-compose; then
    docker-compose --project-directory "$ROOT" "$@"
  else
    die "neither \"docker compose\" nor docker-compose is installed" "Run: make setup"
  fi
}

# The service is one for this machine: two folders, each with its own secrets, would take it from each other. A folder that is
# gone has no claim.
refuse_others_service() {
  local owner
  owner=$(docker ps -q --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" | head -n 1 |
    xargs -r docker inspect -f '{{ index .Config.Labels "com.docker.compose.project.working_dir" }}')
  if [ -n "$owner" ] && [ "$owner" != "$ROOT" ] && [ -d "$owner" ]; then
    die "the service runs already, from $owner" "Stop it there, or here: make stop (DATA=1 removes its data too, which this folder's keys cannot read)"
  fi
}

# A hash of files and folders, by name, mode and content: what an image was made from.
inputs_hash() {
  (cd "$ROOT" && find "$@" -type f -not -path '*/__pycache__/*' -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c1-32)
}

# The dispatcher's image: from the binary that cargo builds here, or, without cargo, by the multi-stage build.
build_dispatcher() {
  local base=debian:bookworm-slim hash with=()
  if ! have cargo; then
    step "Build lockstep:latest in a container" docker build -t lockstep:latest "$ROOT"
    return
  fi
  docker image inspect lockstep-base:bookworm >/dev/null 2>&1 && base=lockstep-base:bookworm
  # What tests need asks for more of the crates that both use. Where tests are built in this profile, one build is to serve both.
  [ "${TEST_PROFILE:-}" = release ] && with=(--tests)
  step "Build the dispatcher" cargo build --release --locked --bin lockstep "${with[@]}" --manifest-path "$ROOT/Cargo.toml"
  local target=${CARGO_TARGET_DIR:-$ROOT/target}
  hash=$(sha256sum "$target/release/lockstep" Dockerfile | sha256sum | cut -c1-32)
  [ "$(docker image inspect -f '{{ index .Config.Labels "lockstep.inputs" }}' lockstep:latest 2>/dev/null)" = "$hash" ] && return
  mkdir -p "$target/image"
  ln -f "$target/release/lockstep" "$target/image/lockstep"
  step "Build lockstep:latest" docker build -q -t lockstep:latest --target prebuilt --build-arg PREBUILT=lockstep --build-arg "BASE=$base" \
    --label "lockstep.inputs=$hash" -f "$ROOT/Dockerfile" "$target/image"
}

# The client as users run it: the binary built here, or the one in the image.
lockstep() {
  local binary=${CARGO_TARGET_DIR:-$ROOT/target}/release/lockstep
  if [ -x "$binary" ]; then
    "$binary" "$@"
  else
    docker run --rm --network host -v "$ROOT:$ROOT:ro" -w "$ROOT" -e LOCKSTEP_URL -e LOCKSTEP_CA_CERT \
      -e LOCKSTEP_DEPLOYMENT_SECRET -e LOCKSTEP_TOKEN lockstep:latest "$@"
  fi
}
