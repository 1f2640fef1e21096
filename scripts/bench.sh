#!/usr/bin/env bash
# The figures, each as a ratio to its limit, taken in one run on this machine.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$ROOT"
cargo bench --bench figures --locked "$@"
