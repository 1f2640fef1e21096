#!/usr/bin/env bash
# `lockstep doctor` with the settings and files of the service's container, whether that runs or ends again and again.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

docker info >/dev/null 2>&1 || die "no engine answers" "Start Docker, or run: make setup"
id=$(docker ps -aq --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" --filter label=com.docker.compose.service=dispatcher | head -n 1)
[ -n "$id" ] || die "the service has no container" "Run: make run"
# The settings name files of secrets, and hold none.
docker run --rm --network host --volumes-from "$id" --label "$LABEL" \
  --env-file <(docker inspect -f '{{ range .Config.Env }}{{ println . }}{{ end }}' "$id" | grep '^LOCKSTEP_') \
  "$(docker inspect -f '{{ .Image }}' "$id")" doctor
