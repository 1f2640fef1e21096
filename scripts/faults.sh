#!/usr/bin/env bash
# The long run under faults: at least so many deployments, and at least so many faults. Its seed is printed; FAULTS_SEED repeats one.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$ROOT"
export FAULTS_DEPLOYMENTS=${FAULTS_DEPLOYMENTS:-500} FAULTS_STRIKES=${FAULTS_STRIKES:-200}
cargo nextest run --locked --no-capture -E 'test(faults::)'
