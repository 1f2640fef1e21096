#!/bin/sh
# Starts Redis with its password from a file (REDIS_PASSWORD_FILE) or the environment (REDIS_PASSWORD). The password goes
# in by standard input, as configuration: it is never an argument, and neither on disk nor in Redis' environment.
set -eu

file=${REDIS_PASSWORD_FILE:-/run/secrets/redis-password}
password=${REDIS_PASSWORD:-}
if [ -z "$password" ] && [ -e "$file" ]; then
  password=$(cat "$file") || {
    echo "error: $file cannot be read by uid $(id -u). Run on the host: make setup" >&2
    exit 1
  }
fi
unset REDIS_PASSWORD
if [ -z "$password" ]; then
  echo "error: no password. Mount a file at $file, or set REDIS_PASSWORD" >&2
  exit 1
fi

# Quoted as redis.conf wants it: backslash and double quote escaped.
escaped=$(printf '%s' "$password" | sed 's/[\\"]/\\&/g')
exec redis-server - <<CONF
include /etc/redis.conf
requirepass "$escaped"
CONF
