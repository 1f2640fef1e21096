#!/usr/bin/env bash
# Replaces the running dispatcher by one of the code and settings that are here, without refusing a connection: the new one starts
# beside it, is handed its listening socket, and tells it to leave once it is ready itself. If it does not come to be ready, the old one
# goes on, and the new one is removed.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

PATIENCE_S=${UPGRADE_PATIENCE_S:-120}

# dispatchers <options of docker ps…>: ids of the service's dispatchers, the newest first.
dispatchers() {
  docker ps -q --no-trunc --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \
    --filter label=com.docker.compose.service=dispatcher "$@"
}
state() { docker inspect -f "{{ .$2 }}" "$1" 2>/dev/null || true; }
hands_over() {
  docker inspect -f '{{ range .Config.Env }}{{ println . }}{{ end }}' "$1" | grep -q '^LOCKSTEP_HANDOVER_SOCKET=.'
}

# However this ends before the old one has: it goes on as it was, or, if it has left at that very moment, is started again. The new one
# goes first, since each would be handed the other's socket for ever.
tidy_up() {
  local new
  for new in $(dispatchers -a | grep -vxF "$old"); do
    docker logs --tail 30 "$new" >&2 || true
    docker rm -f "$new" >/dev/null || true
  done
  docker update --restart="$policy" "$old" >/dev/null
  docker start "$old" >/dev/null
}
give_up() { die "the new dispatcher did not take over: $1" "The old one goes on. The new one's log is below."; }

docker info >/dev/null 2>&1 || die "no engine answers" "Start Docker, or run: make setup"
refuse_others_service
"$ROOT/scripts/setup.sh"
cd "$ROOT"
build_dispatcher

mapfile -t running < <(dispatchers)
case ${#running[@]} in
  0) exec "$ROOT/scripts/run.sh" ;;
  1) ;;
  *) die "${#running[@]} dispatchers run" "An upgrade was broken off. See: docker ps. Then: make run" ;;
esac
old=${running[0]}
if ! hands_over "$old"; then
  warn "the dispatcher that runs cannot hand over its socket; it is restarted, and connections are refused for a moment"
  exec "$ROOT/scripts/run.sh"
fi
# What is left of earlier ones would be started as well.
dispatchers -a --filter status=exited --filter status=created --filter status=dead | xargs -r docker rm >/dev/null

name=$(state "$old" Name)
policy=$(state "$old" HostConfig.RestartPolicy.Name)
# It is to end with exit code 0, and then to stay away; should it crash before, it comes back.
docker update --restart=on-failure "$old" >/dev/null
trap tidy_up EXIT

step "Start the new dispatcher beside the old one" compose up -d --no-deps --no-recreate --scale dispatcher=2 dispatcher
new=$(dispatchers -a | grep -vxF "$old" | head -n 1 || true)
[ -n "$new" ] || give_up "it has no container"
began=$SECONDS leaving=
while [ "$(state "$old" State.Running)" = true ]; do
  # Once the old one leaves, the new one is the one that serves: nothing is undone any more.
  if [ -z "$leaving" ] && docker logs --tail 100 "$old" 2>&1 | grep -q "the successor is ready"; then
    leaving=yes
    trap - EXIT
  fi
  if [ -z "$leaving" ]; then
    [ "$(state "$new" RestartCount)" = 0 ] && [ "$(state "$new" State.Running)" = true ] || give_up "it ended"
    [ $((SECONDS - began)) -lt "$PATIENCE_S" ] || give_up "it was not ready after $PATIENCE_S s"
  fi
  sleep 0.2
done
trap - EXIT
docker update --restart=no "$old" >/dev/null
code=$(state "$old" State.ExitCode)
[ "$code" = 0 ] || warn "the old dispatcher ended with exit code $code; its log: $(docker logs --tail 5 "$old" 2>&1)"
docker rm -f "$old" >/dev/null
docker rename "$new" "${name#/}"
say "The dispatcher was replaced; its containers go on. It runs $(docker exec "$new" /usr/local/bin/lockstep --version)"
