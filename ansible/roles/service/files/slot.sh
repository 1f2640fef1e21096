#!/bin/sh
# What runs in a slot of a service: slot.sh start|renew|remove FOLDER. `renew` stops it and leaves an empty slot, `remove`
# nothing. A repetition does no harm.
#
# FOLDER/pid holds the pid and the time at which that process began, in ticks since the host's start. A pid alone says
# nothing: after a restart it may be anybody's.
set -eu
action=$1 folder=$2

running() {
  [ -r "$folder/pid" ] && read -r pid began <"$folder/pid" && [ -n "$began" ] || return 1
  # Behind the name, which may have spaces: the state is field 1 and the time field 20.
  # shellcheck disable=SC2046
  set -- $(sed 's/.*) //' "/proc/$pid/stat" 2>/dev/null)
  [ "${20:-}" = "$began" ] && [ "$1" != Z ]
}

# await yes|no: until it runs or does not, 10 s at most.
await() {
  left=100
  until [ "$(running && echo yes || echo no)" = "$1" ]; do
    [ "$((left -= 1))" -ge 0 ] || return 1
    sleep 0.1
  done
}

stop() {
  running || return 0
  kill -s TERM -- "-$pid"
  await no || { kill -s KILL -- "-$pid"; await no; } || { echo "process $pid does not end" >&2; exit 1; }
}

case $action in
start)
  if running; then
    echo "runs already"
    exit 0
  fi
  rm -f "$folder/pid"
  # A session of its own: it outlives the connection, and is stopped with all that it has started.
  setsid "$folder/run" </dev/null >"$folder/log" 2>&1 &
  await yes || { echo "did not start: $(tail -n 5 "$folder/log")" >&2; exit 1; }
  echo started
  ;;
renew)
  stop
  rm -rf "$folder"
  mkdir -p "$folder/files"
  ;;
remove)
  [ -d "$folder" ] || exit 0
  stop
  rm -rf "$folder"
  echo removed
  ;;
*)
  exit 64
  ;;
esac
