# shellcheck shell=bash
# What the plays share: who acts, how one waits, and what is claimed. Sourced, never run.
#
# A play tells its story against a service that runs: LOCKSTEP_URL, LOCKSTEP_CA_CERT, and LOCKSTEP_TOKEN, an operator's; LOCKSTEP names
# the binary. Without these it is the service that `make demo` has started from this folder. Everybody in it has a token of his own, which is
# issued here, and every reporter is a process of its own. Nothing sleeps:
# whoever waits, waits for the service, and for no longer than PLAY_PATIENCE (seconds). Every sentence that begins with a hyphen was
# checked; the first that does not hold ends the play.

shopt -s inherit_errexit
HOME_OF_DEMO=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
export LOCKSTEP_URL=${LOCKSTEP_URL:-https://localhost}
if [ "$LOCKSTEP_URL" = https://localhost ]; then
  export LOCKSTEP_CA_CERT=${LOCKSTEP_CA_CERT:-$HOME_OF_DEMO/certs/certificate.crt}
  [ -n "${LOCKSTEP_TOKEN:-}" ] || LOCKSTEP_TOKEN=$(cat "$HOME_OF_DEMO/.secrets/operator-token" 2>/dev/null || true)
  export LOCKSTEP_TOKEN
  [ -n "${LOCKSTEP:-}" ] || [ ! -x "$HOME_OF_DEMO/target/release/lockstep" ] || LOCKSTEP=$HOME_OF_DEMO/target/release/lockstep
fi
LOCKSTEP=${LOCKSTEP:-lockstep}
PATIENCE=${PLAY_PATIENCE:-180}
# In every version, so that a play can be given again on the same service.
# shellcheck disable=SC2034 # used by those who source this
RUN=$(date +%s)
WORK=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-play.XXXXXX")
# What the last release looked like that was waited for, and who follows its events meanwhile.
SHOWN='{}'
FOLLOWER=
# shellcheck disable=SC2016 # jq's variables
WORDS='
  def step(name): .stages[-1].steps[] | select(.name == name);
  def word: .data.customData.event;
  def told(name): [.[] | select(word == name) | .data.customData];
'

say() { printf '%s\n' "$*"; }
act() { printf '\n== %s\n' "$*"; }

# fail <sentence> [line…]: it is not as told. Said by whichever process; the play ends.
fail() {
  {
    printf 'NOT AS TOLD: %s\n' "$1"
    shift
    [ $# -eq 0 ] || printf '  %s\n' "$@"
  } >&2
  [ "$BASHPID" = "$$" ] || kill -s USR1 "$$"
  exit 1
}

# Whoever acts beside the play has failed, and has said why.
trap 'exit 1' USR1
trap 'exit 130' INT
trap 'exit 143' TERM
trap 'clear_away $?' EXIT

# What was made here is taken back, in whatever state the play ends.
clear_away() {
  # Nor is whoever is called here disturbed, if a whole group is told to end.
  trap '' USR1 INT TERM
  set +e
  local code=$1 it
  [ -z "$FOLLOWER" ] || kill "$FOLLOWER" 2>/dev/null
  for it in $(lines processes); do kill -s KILL -- "-$it" 2>/dev/null; done
  for it in $(lines webhooks); do operator webhooks remove "$it" >/dev/null 2>&1; done
  for it in $(lines reporters); do operator reporters remove "$it" >/dev/null 2>&1; done
  for it in $(lines releases); do
    # Refused where it is over, which is what it should be.
    operator release reject "$it" --reason "the play has ended" >/dev/null 2>&1
  done
  for it in $(lines freezes); do operator unfreeze "$it" >/dev/null 2>&1; done
  for it in $(lines tokens); do operator tokens revoke "$it" >/dev/null 2>&1; done
  rm -rf "$WORK"
  exit "$code"
}

lines() { sort -u "$WORK/$1" 2>/dev/null; }
note() { printf '%s\n' "$2" >>"$WORK/$1"; }

# What it takes to play.
need() {
  local it
  [ -n "${LOCKSTEP_TOKEN:-}" ] ||
    fail "there is a service, and an operator's token" "Run \`make demo\`, or set LOCKSTEP_URL, LOCKSTEP_CA_CERT and LOCKSTEP_TOKEN."
  for it in "$LOCKSTEP" jq curl python3 sha256sum timeout; do
    command -v "$it" >/dev/null || fail "there is a program $it" "LOCKSTEP=/path/to/lockstep names the client."
  done
}

# operator <argument…>: with the operator's token. as <who> <argument…>: with that of somebody in the play.
operator() { "$LOCKSTEP" "$@"; }
as() {
  local who=$1
  shift
  env -u LOCKSTEP_TOKEN "$LOCKSTEP" --token-file "$WORK/$who.token" "$@"
}

# quietly <command…>: what it says is shown if it fails.
quietly() {
  local said
  said=$("$@" 2>&1) || fail "this is done: $*" "$said"
}

# issue <name> <role> [option…]: a token; one that an earlier play has left under this name is taken back.
issue() {
  local name=$1 role=$2
  shift 2
  operator tokens revoke "$name" --reason "left by an earlier play" >/dev/null 2>&1 || true
  note tokens "$name"
  (umask 077 && operator tokens issue "$name" --role "$role" "$@" --for 1d --reason "a play" >"$WORK/$name.token" 2>"$WORK/said") ||
    fail "$name is given a token" "$(cat "$WORK/said")"
}

# subscribe <reporter> <product>
subscribe() {
  note reporters "$1"
  quietly operator reporters set "$1" --product "$2" --reason "a play"
}

# beside <command…>: runs it as a process of its own until the play ends.
beside() {
  # In a group of its own, so that all of it can be ended.
  set -m
  "$@" </dev/null &
  set +m
  note processes "$!"
  disown
}

# employ <reporter> <what it does>: asks what awaits the reporter, does it, and asks again.
employ() { beside work_as "$1" "$2"; }

work_as() {
  local name=$1 does=$2 awaits request
  # It goes home when it is sent home, and not before.
  trap 'kill -s USR1 "$$"' EXIT
  while true; do
    awaits=$(as "$name" release pending "$name" --wait 60s --json) || fail "$name sees what awaits it"
    while IFS= read -r request; do "$does" "$name" "$request"; done < <(jq -c '.requests[]' <<<"$awaits")
  done
}

# of <request> <what>: a part of what a reporter is asked.
of() { jq -r "$2" <<<"$1"; }

# report <reporter> <request> <result> [option…]
report() {
  local name=$1 request=$2 result=$3
  shift 3
  quietly as "$name" release report "$(of "$request" .release)" --stage "$(of "$request" .stage)" --step "$(of "$request" .step)" \
    --result "$result" "$@"
}

# submit <who> <argument…>: makes a release, and prints its id.
submit() {
  local who=$1 made
  shift
  made=$(as "$who" release create "$@" --json) || fail "$who can make a release"
  made=$(jq -r .id <<<"$made")
  note releases "$made"
  printf '%s\n' "$made"
}

# What an earlier play has left under way, if it was killed.
clear_left_over() {
  local pipeline=$1 who it
  shift
  for who in "$@"; do
    for it in $(operator release list --pipeline "$pipeline" --json | jq -r --arg who "$who" '.releases[] | select(.by == $who) | .id'); do
      operator release reject "$it" --reason "left by an earlier play" >/dev/null 2>&1 || true
    done
  done
}

show() { operator release show "$1" --json; }
events() { operator release events "$1" --json | jq -cs .; }

# holds <condition> [argument of jq…]: whether the JSON on standard input fits.
holds() {
  local condition=$1
  shift
  jq -e "$@" "$WORDS $condition" >/dev/null
}

# claim <sentence> <JSON> <condition> [argument of jq…]
claim() {
  local sentence=$1 json=$2 condition=$3
  shift 3
  holds "$condition" "$@" <<<"$json" || fail "$sentence" "looked for: $condition" "there is: $(jq -c . <<<"$json")"
  say "- $sentence"
}

# await <release> <sentence> <condition> [argument of jq…]: follows the events of a release until it fits, and keeps it in SHOWN.
await() {
  local id=$1 sentence=$2 condition=$3 source='' over=''
  shift 3
  while true; do
    SHOWN=$(show "$id")
    if holds "$condition" "$@" <<<"$SHOWN"; then break; fi
    if holds '.state | IN("failed", "rolled_back", "ready", "undecided", "suspended", "superseded", "decided")' <<<"$SHOWN"; then
      over="nothing goes on by itself"
    fi
    [ -z "$over" ] || fail "$sentence" "$over" "looked for: $condition" "there is: $(jq -c . <<<"$SHOWN")"
    if [ -z "$source" ]; then
      exec {source}< <(exec timeout "$PATIENCE" "$LOCKSTEP" release events "$id" --follow --json 2>/dev/null)
      FOLLOWER=$!
    fi
    # One, and all that came with it: what counts is the release itself.
    IFS= read -r _ <&"$source" || over="not within $PATIENCE s"
    while IFS= read -r -t 0.02 _ <&"$source"; do :; done
  done
  if [ -n "$source" ]; then
    kill "$FOLLOWER" 2>/dev/null || true
    FOLLOWER=
    exec {source}<&-
  fi
  say "- $sentence"
}

# refused <sentence> <text> <command…>: it must be refused, and say so in these words.
refused() {
  local sentence=$1 text=$2 said
  shift 2
  if said=$("$@" 2>&1); then fail "$sentence" "it was not refused: $said"; fi
  [[ $said == *"$text"* ]] || fail "$sentence" "looked for: $text" "it was said: $said"
  say "- $sentence: \"$text\""
}
