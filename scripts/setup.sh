#!/usr/bin/env bash
# Sees to it that everything is there: packages, engine, images, certificate, secrets, keys of the demo. Does only what is
# missing, so it may be run at any time. On a fresh Debian machine as root it needs nothing but cargo.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

BASE_REGISTRY=debian:bookworm-slim
BASE_LOCAL=lockstep-base:bookworm
SCHEMATHESIS=4.32.5
DOCKERD_LOG=/var/log/lockstep-dockerd.log

# package <command> <package>…: names the packages whose command is missing.
package() { have "$1" || printf '%s\n' "${@:2}"; }

install_packages() {
  local missing
  missing=$(
    package dockerd docker.io containerd iptables
    package redis-server redis-server
    package debootstrap debootstrap
    package ssh-keygen openssh-client
    package openssl openssl
    package curl curl
    package http httpie
    package jq jq
    package wrk wrk
    package python3 python3
    python3 -c 'import ensurepip' 2>/dev/null || printf '%s\n' python3-venv
    package gcc gcc libc6-dev
    # Where the kernel has it, the engine wants its profiles loaded, and starts no container without.
    [ "$(cat /sys/module/apparmor/parameters/enabled 2>/dev/null)" != Y ] || package apparmor_parser apparmor
    docker compose version >/dev/null 2>&1 || package docker-compose docker-compose
  )
  [ -z "$missing" ] && return
  have apt-get || die "missing: $(tr '\n' ' ' <<<"$missing")" "This is no Debian: install them by your own means."
  is_root || die "missing: $(tr '\n' ' ' <<<"$missing")" "Run as root, or: sudo apt-get install $(tr '\n' ' ' <<<"$missing")"
  step "Refresh the list of packages" apt-get update -q
  # Redis is wanted as a program: the package would start a server of its own.
  local policy=/usr/sbin/policy-rc.d made=
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=1
    # Left behind, it would keep every package from starting its service.
    # shellcheck disable=SC2064 # the path as it is now
    trap "rm -f '$policy'" EXIT
  fi
  # shellcheck disable=SC2086 # a list of words
  step "Install $(tr '\n' ' ' <<<"$missing")" env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends $missing
  [ -z "$made" ] || rm -f "$policy"
  # Nor may it at the next start of the machine: its port is the service's.
  if [ -d /run/systemd/system ] && [[ " ${missing//$'\n'/ } " == *" redis-server "* ]]; then systemctl disable --quiet redis-server; fi
}

engine_answers() { docker info >/dev/null 2>&1; }

start_engine() {
  engine_answers && return
  is_root || die "no engine answers" "Start Docker, or give this user the right to use it (group docker)."
  if [ -d /run/systemd/system ]; then
    step "Start Docker" systemctl start docker
  else
    say "==> Start Docker (its log: $DOCKERD_LOG)"
    setsid nohup dockerd >>"$DOCKERD_LOG" 2>&1 </dev/null &
  fi
  local waited=0
  until engine_answers; do
    [ $((waited += 1)) -le 60 ] || die "Docker did not answer within 30 s" "See $DOCKERD_LOG"
    sleep 0.5
  done
}

# The engine follows each container's log with an inotify instance of its own; beyond the limit it looks only now and then.
allow_many_logs() {
  local limit=/proc/sys/fs/inotify/max_user_instances
  if is_root && [ -w "$limit" ] && [ "$(cat "$limit")" -lt 1024 ]; then
    echo 1024 >"$limit" || warn "$limit could not be raised: the output of more than about 100 jobs at once arrives in bursts"
  fi
}

# image <tag> <what it is> <folder or files…> -- <build arguments…>: builds unless the image was made from the same inputs.
image() {
  local tag=$1 what=$2 inputs=() hash
  shift 2
  while [ "$1" != -- ]; do inputs+=("$1"); shift; done
  shift
  hash=$(inputs_hash "${inputs[@]}")
  [ "$(docker image inspect -f '{{ index .Config.Labels "lockstep.inputs" }}' "$tag" 2>/dev/null)" = "$hash" ] && return
  step "Build $tag ($what)" docker build -q -t "$tag" --build-arg "BASE=$BASE" --label "lockstep.inputs=$hash" "$@"
}

# The base image: from a registry where one is in reach, else made from Debian's packages.
choose_base() {
  local name
  for name in "$BASE_LOCAL" "$BASE_REGISTRY"; do
    if docker image inspect "$name" >/dev/null 2>&1; then
      BASE=$name
      return
    fi
  done
  if timeout 30 docker pull -q "$BASE_REGISTRY" >/dev/null 2>&1; then
    BASE=$BASE_REGISTRY
  else
    say "No image registry is in reach; the base image is made from Debian's packages."
    step "Make $BASE_LOCAL" "$ROOT/images/base.sh" "$BASE_LOCAL"
    BASE=$BASE_LOCAL
  fi
}

build_images() {
  choose_base
  image lockstep-redis:latest "Redis with its durability set" images/redis -- "$ROOT/images/redis"
  image lockstep-target:latest "a host to deploy to" images/target -- "$ROOT/images/target"
  image lockstep-runner:latest "Ansible, and this project's playbooks" ansible -- "$ROOT/ansible"
  docker network inspect lockstep >/dev/null 2>&1 || docker network create --label "$LABEL" lockstep >/dev/null
}

# secret <file> <command…>: writes a secret file unless it is there.
secret() {
  local file=$1
  shift
  [ -s "$file" ] && return
  "$@" >"$file.new"
  mv "$file.new" "$file"
}

random_word() { openssl rand -hex 24; }
operator_line() { printf 'admin:%s\n' "$(openssl rand -hex 24)"; }

# Redis and dispatcher read the password once, when they start: with another one they have to start anew, and both. Data
# and running jobs are not touched; `make run` makes the containers again.
remove_service() {
  local containers
  mapfile -t containers < <(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    --filter "label=com.docker.compose.project.working_dir=$ROOT")
  [ "${#containers[@]}" -gt 0 ] || return 0
  say "$1: the containers of the service are removed, to be made anew"
  docker stop "${containers[@]}" >/dev/null
  docker rm "${containers[@]}" >/dev/null
}

make_secrets() {
  local folder=$ROOT/.secrets password
  (
    umask 077
    mkdir -p "$folder/dispatcher" "$folder/redis"
    [ -s "$ROOT/.secret.env" ] || printf 'export REDIS_PASSWORD=%s\n' "$(random_word)" >"$ROOT/.secret.env"
    # shellcheck disable=SC1091
    password=$(. "$ROOT/.secret.env" && printf '%s' "${REDIS_PASSWORD:-}")
    [ -n "$password" ] || die ".secret.env sets no REDIS_PASSWORD" "It must hold a line: export REDIS_PASSWORD=…"
    if [ -s "$folder/redis/password" ] && [ "$(cat "$folder/redis/password")" != "$password" ]; then
      remove_service "The password in .secret.env has changed"
    fi
    # A file that is mounted into a container is rewritten in place: a new inode would not be seen there.
    printf '%s' "$password" >"$folder/dispatcher/redis-password"
    printf '%s' "$password" >"$folder/redis/password"
    secret "$folder/dispatcher/pepper" random_word
    secret "$folder/dispatcher/feed-token" random_word
    secret "$folder/dispatcher/operators" operator_line
    cut -d: -f2 "$folder/dispatcher/operators" >"$folder/operator-token"
  )
  if is_root; then chown 10002 "$folder/redis/password"; fi
}

# Keys of the demo: one by which runner containers log in to the target host, and the host's own.
make_keys() {
  local ssh=$ROOT/.demo/ssh target=$ROOT/.demo/target host
  [ -s "$ssh/known_hosts" ] && return
  (
    umask 077
    mkdir -p "$ssh" "$target"
    [ -s "$ssh/id_ed25519" ] || ssh-keygen -q -t ed25519 -N '' -C lockstep-demo -f "$ssh/id_ed25519"
    [ -s "$target/ssh_host_ed25519_key" ] || ssh-keygen -q -t ed25519 -N '' -C target -f "$target/ssh_host_ed25519_key"
    cp "$ssh/id_ed25519.pub" "$target/authorized_keys"
    for host in app-one.epfl.ch app-two.epfl.ch; do
      printf '%s %s\n' "$host" "$(cut -d' ' -f1,2 "$target/ssh_host_ed25519_key.pub")"
    done >"$ssh/known_hosts"
  )
  # Runner containers read them as their own user.
  if is_root; then chown -R 10001 "$ssh"; fi
}

# What compose needs to know, whoever calls it: by hand, or the role `dispatcher`. The environment goes before it. What the user has
# set stays; a path made here follows the folder when that is moved or copied.
make_compose_settings() {
  local file=$ROOT/.env ssh=LOCKSTEP_SSH_DIR=$ROOT/.demo/ssh
  touch "$file"
  grep -q '^COMPOSE_PROJECT_NAME=' "$file" || printf '%s\n' "COMPOSE_PROJECT_NAME=$COMPOSE_PROJECT_NAME" >>"$file"
  if ! grep -q '^LOCKSTEP_SSH_DIR=' "$file"; then
    printf '%s\n' "$ssh" >>"$file"
  elif grep -q '^LOCKSTEP_SSH_DIR=.*/\.demo/ssh$' "$file" && ! grep -qxF "$ssh" "$file"; then
    sed -i "s|^LOCKSTEP_SSH_DIR=.*|$ssh|" "$file"
  fi
}

# What only tests need.
install_test_tools() {
  local venv=$ROOT/.tools/schemathesis
  if have cargo && ! have cargo-nextest; then step "Install cargo-nextest" cargo install --locked cargo-nextest; fi
  [ -x "$venv/bin/schemathesis" ] && return
  rm -rf "$venv"
  step "Install schemathesis" bash -c "python3 -m venv '$venv' && '$venv/bin/pip' install -q 'schemathesis==$SCHEMATHESIS'"
}

cd "$ROOT"
install_packages
start_engine
allow_many_logs
build_images
"$ROOT/scripts/certificate.sh" >/dev/null
make_secrets
make_keys
make_compose_settings
if [ "${1:-}" = tests ]; then install_test_tools; fi
