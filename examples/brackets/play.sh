#!/usr/bin/env bash
# The story of examples/brackets.yml from beginning to end: Tim and Tom try their services in dev, each by himself, and send them on to
# hardening as a couple, from where it goes to production by itself. Later couples fail, and are undone. See README.md beside this.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$HERE/../lib.sh"

TIM=foo-tim TOM=foo-tom

# couple <who> <backend's version> <frontend's version>: both together, in hardening; prints the release's id.
couple() { submit "$1" --pipeline foo --stage hardening --service "foobar-backend=$2" --service "foobar-frontend=$3"; }

# happened <release> <sentence> <words>: what has happened is this, word for word; of a stage that has ended, up to its end.
happened() {
  local id=$1 sentence=$2 words=$3 said
  said=$(events "$id" | jq -r "$WORDS"'[.[] | word] | .[: index("configuration-change.finished") + 1] | join("\n")')
  words=$(tr -s '[:space:]' '\n' <<<"$words" | sed '/^$/d')
  [ "$said" = "$words" ] || fail "$sentence" "$(diff <(printf '%s\n' "$words") <(printf '%s\n' "$said") || true)"
  say "- $sentence:"
  sed 's/^\(configuration-change\|promote\)/  \1/; t; s/^/    /' <<<"$said"
}

# everybody <port> <stage>: whoever comes there is answered by the couple, if TARGET, the address of the host of services, is known.
everybody() {
  [ -n "${TARGET:-}" ] || return 0
  claim "Whoever comes to $2 is answered by $FRONTEND, and this by $BACKEND" "$(curl -sS --fail --max-time 10 "http://$TARGET:$1/foobar-frontend/")" \
    '.version == $f and .backend.version == $b' --arg f "$FRONTEND" --arg b "$BACKEND"
}

# The events of the story, as they stand there.
DEV="
  configuration-change.triggered
    deploy_direct.triggered deploy_direct.started deploy_direct.finished
    functional_tests.triggered functional_tests.started functional_tests.finished
    evaluation.triggered evaluation.started evaluation.finished
    release.triggered release.started release.finished
  configuration-change.finished"
HARDENING="
  configuration-change.triggered
    deploy_blue_green.triggered deploy_blue_green.started deploy_blue_green.finished
    performance_tests.triggered performance_tests.started performance_tests.finished
    evaluation.triggered evaluation.started evaluation.finished
    release.triggered release.started release.finished
    promote.triggered promote.started promote.finished
  configuration-change.finished"

need
act "Two developers, two services, three stages"
quietly operator pipeline apply "$HERE/../brackets.yml" --reason "a play"
issue "$TIM" releaser
issue "$TOM" releaser
clear_left_over foo "$TIM" "$TOM"
operator unfreeze backend-hardening >/dev/null 2>&1 || true
# shellcheck disable=SC2016 # jq's variable
claim "The feed lists the apps that deploy and test them" "$(operator apps list --json)" '[.apps[].deployment_id] as $there |
  ["backend", "frontend"] | [.[] + ("-dev", "-hardening", "-production")] +
    ["foo-functional-tests", "foo-performance-tests", "foo-evaluation", "foo-release-dev", "foo-release-hardening", "foo-release-production"] - $there == []'

act "Tim and Tom release to dev, at the same time and each by himself"
BACKEND=0.22.3.rc.$RUN FRONTEND=0.9.42.$RUN
tims=$(submit "$TIM" --pipeline foo --service "foobar-backend=$BACKEND")
toms=$(submit "$TOM" --pipeline foo --service "foobar-frontend=$FRONTEND")
say "Tim releases foobar-backend $BACKEND: $tims. Tom releases foobar-frontend $FRONTEND: $toms."
for id in "$tims" "$toms"; do
  await "$id" "All is done in dev, and it stays there" '.state == "ready" and .stage == "dev" and .waits_for == "promotion"'
done
happened "$tims" "What has happened to Tim's is what the story says" "$DEV"
happened "$toms" "And to Tom's" "$DEV"
claim "Each was deployed alone" "$SHOWN" '.services | keys == ["foobar-frontend"]'

act "They meet for a coffee, and send both to hardening"
refused "A release does not begin in production" "does not begin in the stage production" \
  as "$TOM" release create --pipeline foo --stage production --service foobar-backend=1
quietly operator freeze backend-hardening --reason "audit until noon" --for 1h
note freezes backend-hardening
pair=$(couple "$TOM" "$BACKEND" "$FRONTEND")
say "Tim and Tom release the couple: $pair."
claim "One of its inventories is frozen, so it takes neither lock: all or none" "$(show "$pair")" \
  'step("deploy_blue_green") | .state == "blocked" and .blocked.inventory == "backend-hardening" and (.jobs // []) == [] and
    ([.services[].state] == ["pending", "pending"])'
claim "It says for what it waits" "$(show "$pair")" '.waits_for | test("lock of backend-hardening: frozen by .*: audit until noon")'
for id in "$tims" "$toms"; do
  claim "What was in dev goes on with it" "$(show "$id")" '.state == "superseded" and .superseded_by == $pair' --arg pair "$pair"
done
quietly operator unfreeze backend-hardening
await "$pair" "The tests have passed: it was promoted to production by itself, and is done there" \
  '.state == "undecided" and .stage == "production" and .stages[1].by == null'
happened "$pair" "What has happened in hardening is what the story says" "$HARDENING"
claim "Both were deployed green, and tests were told where" "$SHOWN" \
  '[.stages[0].outputs.deploy_blue_green[] | .colour == "green" and (.test_uri | startswith("http"))] == [true, true]'
job=$(jq -r '.stages[0].steps[1].jobs[0].job_id' <<<"$SHOWN")
log=$(operator logs "$job")
[[ $log == *"the green frontend $FRONTEND has asked the green backend $BACKEND"* ]] || fail "The performance tests have looked who talks to whom" "$log"
say "- While they ran, green talked to green alone: job $job has asked"
everybody 8102 hardening
everybody 8103 production
quietly as "$TOM" release decide "$pair" accepted
claim "It is accepted: every step of both stages has passed" "$(show "$pair")" \
  '.decision.verdict == "accepted" and ([.stages[].steps[].result] | unique == ["pass"])'

act "A couple of which one does not come up"
B2=0.22.4.$RUN F2=0.9.43.$RUN-broken
broken=$(couple "$TOM" "$B2" "$F2")
say "Tom releases foobar-backend $B2 and foobar-frontend $F2: $broken."
await "$broken" "It fails, and what it had deployed is undone" '.state == "failed" and .stage == "hardening"'
claim "Both are undone, not only the one that failed" "$SHOWN" 'step("deploy_blue_green") | .result == "fail" and ([.services[].state] == ["undone", "undone"])'
claim "It says by name which one it was" "$SHOWN" \
  'step("deploy_blue_green").note | startswith("foobar-backend is undone; foobar-frontend is undone: job ") and contains(" failed")'
say "  $(jq -r '.stages[-1].steps[0].note' <<<"$SHOWN")"
claim "What was there before is the couple" "$SHOWN" \
  'step("deploy_blue_green").services | .["foobar-backend"].previous == $b and .["foobar-frontend"].previous == $f' --arg b "$BACKEND" --arg f "$FRONTEND"
everybody 8102 hardening
claim "No test was begun" "$SHOWN" 'step("performance_tests").state == "pending"'
quietly as "$TOM" release reject "$broken" --reason "the frontend does not come up"
claim "Tom rejects it" "$(show "$broken")" '.decision.verdict == "rejected"'

act "A couple that is too slow"
B3=0.22.5.$RUN-broken-tests F3=0.9.44.$RUN
slow=$(couple "$TIM" "$B3" "$F3")
say "Tim releases foobar-backend $B3 and foobar-frontend $F3: $slow."
await "$slow" "The performance tests fail" '.state == "failed" and (step("performance_tests").result == "fail")'
claim "The couple is there beside what was there before, and nobody was sent to it" "$SHOWN" \
  '(step("deploy_blue_green").services | [.[].state] == ["deployed", "deployed"] and .["foobar-backend"].previous == $b) and
    step("release").state == "pending"' --arg b "$BACKEND"
job=$(jq -r '.stages[0].steps[1].jobs[0].job_id' <<<"$SHOWN")
everybody 8102 hardening
log=$(operator logs "$job")
[[ $log == *"took 2381 ms, 200 ms are allowed"* ]] || fail "Tim reads in the job's output what was slow" "$log"
say "- Tim reads in the output of job $job what was slow"
quietly as "$TIM" release rollback "$slow" --reason "three seconds are too long"
await "$slow" "Tim rolls it back in hardening: both are undone" \
  '.state == "rolled_back" and (step("deploy_blue_green") | [.services[].state] == ["undone", "undone"])'
everybody 8102 hardening
claim "Automation is held there, and it says by whom and why" "$SHOWN" \
  '.hold | .stage == "hardening" and .by == $tim and .reason == "three seconds are too long"' --arg tim "$TIM"
refused "Nothing goes on meanwhile" "automation is held after a roll-back" as "$TOM" release retry "$slow"
quietly as "$TOM" release lift "$slow" --reason "mended in the next version"
claim "Tom lifts it" "$(show "$slow")" '.hold == null and .state == "failed"'
quietly as "$TIM" release reject "$slow" --reason "too slow"
claim "Tim rejects it" "$(show "$slow")" '.decision.verdict == "rejected"'
operator release list --pipeline foo --all --limit 5
act "All is as told."
