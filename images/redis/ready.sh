#!/bin/sh
# Healthy: Redis answers. That it asks for a password (NOAUTH) is an answer too, so none is needed here.
set -eu
answer=$(redis-cli -h 127.0.0.1 ping 2>&1) || true
case $answer in
PONG | NOAUTH*) exit 0 ;;
*)
  echo "$answer"
  exit 1
  ;;
esac
