#!/usr/bin/env bash
# Formatting, clippy, licences and sources of dependencies, links of the documentation, and the script that CI jobs run.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cd "$ROOT"
cargo fmt --all --check
python3 -m py_compile ci/*.py
profile=${TEST_PROFILE:-dev}
cargo clippy --all-targets --locked --profile "$profile" -- -D warnings
# There are no examples in Rust; to ask for them has the crates beneath taken as clippy has checked them, with what tests need of them.
RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --locked --quiet --lib --examples --profile "$profile"
# As its authors release it, whatever checks this project's own build is given.
have cargo-deny || step "Install cargo-deny" env CARGO_PROFILE_RELEASE_DEBUG_ASSERTIONS=false CARGO_PROFILE_RELEASE_OVERFLOW_CHECKS=false \
  cargo install --locked cargo-deny
# cargo-deny looks at every target's crates; only those of this machine's are here from the build.
cargo fetch --locked --quiet
cargo deny --offline check licenses bans sources 2>&1 | tail -n 5
# The list of advisories comes from the network; where that is not in reach, it is said and passed over.
if ! cargo deny check advisories >"${TMPDIR:-/tmp}/lockstep-advisories.log" 2>&1; then
  if grep -qi 'failed to fetch\|unable to fetch\|error sending request\|failed to open' "${TMPDIR:-/tmp}/lockstep-advisories.log"; then
    warn "advisories were not checked: their list could not be fetched"
  else
    cat "${TMPDIR:-/tmp}/lockstep-advisories.log" >&2
    die "advisories concern this project's dependencies"
  fi
fi
