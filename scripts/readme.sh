#!/usr/bin/env bash
# Runs the README's commands, block by block, as they stand there, in one shell; all but the tests themselves.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$ROOT"
blocks=$(mktemp)
trap 'rm -f "$blocks"' EXIT
awk '/^```sh$/ { inside = 1; next } /^```$/ { inside = 0 } inside' README.md | grep -vx 'make test' >"$blocks"
say "==> The README's commands"
bash -euxo pipefail "$blocks"
