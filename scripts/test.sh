#!/usr/bin/env bash
# Every test. Those of ansible/ come first, so that the closing line is the test runner's.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$ROOT"
"$ROOT/ansible/tests/run"
profile=${TEST_PROFILE:-dev}
cargo test --doc --locked --quiet --profile "$profile"
cargo nextest run --locked --cargo-profile "$profile"
