#!/usr/bin/env bash
# The whole way once: service, a host to deploy to, the list of apps, a deployment of app-one, the deployed page.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

TARGET=lockstep-demo-target

# Kept, with what was deployed to it, as long as it is the one that would be made now: same image, same keys. Another clone
# on this machine has other keys.
start_target() {
  local wanted running
  wanted=$(docker image inspect -f '{{ .Id }}' lockstep-target:latest)-$(cat "$ROOT"/.demo/target/* | sha256sum | cut -c1-16)
  running=$(docker container inspect -f '{{ if .State.Running }}{{ index .Config.Labels "lockstep.inputs" }}{{ end }}' "$TARGET" 2>/dev/null || true)
  [ "$running" = "$wanted" ] && return
  docker rm -f "$TARGET" >/dev/null 2>&1 || true
  docker run -d --name "$TARGET" --label "$LABEL" --label "lockstep.inputs=$wanted" --network lockstep \
    --network-alias app-one.epfl.ch --network-alias app-two.epfl.ch -v "$ROOT/.demo/target:/run/target:ro" lockstep-target:latest >/dev/null
}

"$ROOT/scripts/run.sh"
cd "$ROOT"
export LOCKSTEP_URL=https://localhost LOCKSTEP_CA_CERT=$ROOT/certs/certificate.crt
say "==> Start a host to deploy to (container $TARGET: sshd and nginx)"
start_target
say "==> Post the list of apps: lockstep apps set sample_inventory.json"
lockstep apps set sample_inventory.json --token-file .secrets/operator-token
say "==> Deploy: lockstep deploy app-one"
LOCKSTEP_DEPLOYMENT_SECRET=$(jq -r '.[] | select(.deployment_id == "app-one") | .deployment_secret' sample_inventory.json) \
  lockstep deploy app-one
address=$(docker container inspect -f '{{ .NetworkSettings.Networks.lockstep.IPAddress }}' "$TARGET")
say "==> The deployed page: curl -H 'Host: app-one.epfl.ch' http://$address/"
curl -sS --fail --max-time 10 -H 'Host: app-one.epfl.ch' "http://$address/"
cat <<TXT

What to try next:
  export LOCKSTEP_URL=https://localhost LOCKSTEP_CA_CERT=\$PWD/certs/certificate.crt
  LOCKSTEP_DEPLOYMENT_SECRET=secretABC target/release/lockstep deploy app-two
  target/release/lockstep locks --token-file .secrets/operator-token
  http --verify no POST https://localhost/app-deploy/ deployment_id=app-one deployment_secret=secret123
  xdg-open https://localhost/docs          (the API)
  make stop
TXT
