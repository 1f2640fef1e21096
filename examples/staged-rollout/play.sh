#!/usr/bin/env bash
# The story of examples/staged-rollout.yml from beginning to end: a provider submits software, a repository carries it from folder to
# folder, the technical unit verifies it, early adopters try it, and the managers say what came of it. See README.md beside this.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$HERE/../lib.sh"

PROVIDER=rollout-provider VERIFIER=rollout-verifier MANAGER=rollout-manager
# What the receiver serves: the provider's own repository, and the one that all software goes through.
WWW=$WORK/www
FOLDERS=$WWW/repository
mkdir -p "$WWW/provider" "$FOLDERS/unverified" "$FOLDERS/stage-rollout" "$FOLDERS/production" "$WORK/hooks"

# build <version>: the provider builds a package, and an XML file that describes it.
build() {
  mkdir -p "$WORK/built"
  printf 'package %s\n' "$1" >"$WORK/built/package-$1.tar"
  printf '<package><name>middleware</name><version>%s</version></package>\n' "$1" >"$WORK/built/package-$1.xml"
}

# upload <version>: now it can be downloaded from the provider's repository.
upload() { cp "$WORK/built/package-$1".* "$WWW/provider/"; }

# release_of <version>: the provider submits it with all that is asked for; prints the release's id.
release_of() {
  local version=$1
  jq -n --arg version "$version" --arg provider "$BASE/provider" '{
    release_notes: "Middleware \($version): mends the advisory of the vulnerability group", changelog: "\($provider)/changelog",
    certification_report: "\($provider)/certification", documentation: "\($provider)/manual-\($version)",
    bugs: "\($provider)/bugs", provider_repository: $provider}' >"$WORK/metadata.json"
  submit "$PROVIDER" --pipeline staged-rollout --service "package=$version" --metadata "$WORK/metadata.json" \
    --reference "package=$BASE/provider/package-$version.tar" \
    --digest "package=sha256:$(sha256sum "$WORK/built/package-$version.tar" | cut -d' ' -f1)"
}

# fetch <address> <file>
fetch() { curl -sS --fail --max-time 20 -o "$2" "$1"; }

# is_what_was_released <file> <request or release>
is_what_was_released() {
  sha256sum --check --quiet <<<"$(of "$2" '.services.package.digest | ltrimstr("sha256:")')  $1"
}

# The repository downloads what the provider offers, reads the XML beside it, and puts both into the folder for what is not verified.
take_over() {
  local request=$1 version provider
  version=$(of "$request" .services.package.version)
  provider=$(of "$request" .metadata.provider_repository)
  printf 'downloading package-%s from %s\n' "$version" "$provider"
  fetch "$provider/package-$version.tar" "$WORK/incoming.tar" && fetch "$provider/package-$version.xml" "$WORK/incoming.xml" || return 1
  is_what_was_released "$WORK/incoming.tar" "$request" || return 1
  python3 -c 'import sys, xml.etree.ElementTree as xml
is_in_xml = xml.parse(sys.argv[1]).findtext("version")
print("its XML says version", is_in_xml)
sys.exit(is_in_xml != sys.argv[2])' "$WORK/incoming.xml" "$version" || return 1
  mv "$WORK/incoming.tar" "$FOLDERS/unverified/package-$version.tar"
}

# move_on <request> <from> <to>
move_on() {
  local package
  package=package-$(of "$1" .services.package.version).tar
  printf 'moving %s from %s to %s\n' "$package" "$2" "$3"
  mv "$FOLDERS/$2/$package" "$FOLDERS/$3/$package"
}

# What the repository is asked for in its own words, and what it answers in its own words.
repository() {
  local name=$1 request=$2 action status folder log=$WORK/repository.log good=1
  action=$(of "$request" .action)
  case $action in
  MoveToUnverified) status=Unverified folder=unverified ;;
  MoveToStageRollOut) status=Stage-Rollout folder=stage-rollout ;;
  MoveToProduction) status=Production folder=production ;;
  *) fail "The repository is asked for what it knows" "$request" ;;
  esac
  case $folder in
  unverified) take_over "$request" >"$log" 2>&1 || good= ;;
  stage-rollout) move_on "$request" unverified "$folder" >"$log" 2>&1 || good= ;;
  production) move_on "$request" stage-rollout "$folder" >"$log" 2>&1 || good= ;;
  esac
  if [ -n "$good" ]; then
    say "  the repository does $action: $status"
    report "$name" "$request" pass --status "$status" --log "$log" \
      --link "$BASE/repository/$folder/package-$(of "$request" .services.package.version).tar"
  else
    say "  the repository does $action: Failed: $(tail -n 1 "$log")"
    report "$name" "$request" fail --status Failed --log "$log" --comment "$(tail -n 1 "$log")"
  fi
}

# The repository is told by a webhook that there is something to do, and looks what. An event may come twice; what awaits it counts.
repository_is_told() {
  local event awaits request
  trap 'kill -s USR1 "$$"' EXIT
  while IFS= read -r event; do
    say "  the repository is told: $(of "$event" '.data.customData | "\(.event), \(.action)"')"
    awaits=$(as repository release pending repository --json) || fail "The repository sees what awaits it"
    while IFS= read -r request; do repository repository "$request"; done < <(jq -c '.requests[]' <<<"$awaits")
  done <"$WORK/hooks/repository"
}

# An early adopter has the folder stage-rollout among its own repositories, and so finds the package by its version.
adopt() {
  local name=$1 request=$2 result=$3 log=$WORK/$1.log version
  shift 3
  version=$(of "$request" .services.package.version)
  {
    fetch "$BASE/repository/stage-rollout/package-$version.tar" "$WORK/$name.tar" && is_what_was_released "$WORK/$name.tar" "$request" &&
      printf 'installed package %s\n' "$version"
  } >"$log" 2>&1 || result=fail
  say "  $name tries $version: $result"
  report "$name" "$request" "$result" --log "$log" "$@"
}
ea_glite() { adopt "$1" "$2" pass; }
ea_unicore() { adopt "$1" "$2" warning --comment "warns about an option that will go"; }

# notified <who> <release> <sentence> <condition of what is told>: somebody whom it concerns has been told.
notified() {
  local who=$1 id=$2 sentence=$3 condition=$4 event
  if [ -z "$HOOKED" ]; then
    claim "$sentence (the event names $who)" "$(events "$id")" \
      "[.[].data.customData | select($condition) | select(.to | index(\$who))] | length > 0" --arg who "$who"
    return
  fi
  while IFS= read -r -t "$PATIENCE" event <&"${HOOKS[$who]}"; do
    # shellcheck disable=SC2016 # jq's variable
    if holds '.subject == $id and (.data.customData | '"$condition"')' --arg id "$id" <<<"$event"; then
      say "- $sentence (a webhook has told $who)"
      return
    fi
  done
  fail "$sentence" "no webhook has told $who"
}

need
act "A repository, a technical unit, managers, and early adopters"
mkfifo "$WORK/hooks/repository" "$WORK/hooks/technical-unit" "$WORK/hooks/staged-rollout" "$WORK/hooks/$PROVIDER" "$WORK/port"
printf 'whsec_%s\n' "$(head -c 32 /dev/urandom | base64)" >"$WORK/key"
exec {port}<>"$WORK/port"
beside python3 "$HERE/receiver.py" "$WWW" "$WORK/key" "$WORK/hooks" >&"$port"
read -r -t 20 PORT <&"$port" || fail "The receiver listens"
BASE=http://127.0.0.1:$PORT
quietly operator pipeline apply "$HERE/../staged-rollout.yml" --reason "a play"
issue "$PROVIDER" releaser
issue "$VERIFIER" releaser --group technical-unit
issue "$MANAGER" releaser --group staged-rollout
for reporter in repository ea-glite ea-unicore; do issue "$reporter" reporter; done
clear_left_over staged-rollout "$PROVIDER"

# Who is told by a webhook of what concerns him. It is the service that calls; it calls this machine only where it is allowed to.
HOOKED=1
declare -A HOOKS
for who in repository technical-unit staged-rollout "$PROVIDER"; do
  operator webhooks remove "rollout-$who" >/dev/null 2>&1 || true
  note webhooks "rollout-$who"
  if ! said=$(operator webhooks set "rollout-$who" --to "$BASE/hooks/$who" --for "$who" --key-file "$WORK/key" --reason "a play" 2>&1); then
    [[ $said == *"must begin with https://"* || $said == *egress.allow* ]] || fail "A webhook is set" "$said"
    HOOKED=
    break
  fi
  exec {hook}<>"$WORK/hooks/$who"
  HOOKS[$who]=$hook
done
if [ -n "$HOOKED" ]; then
  say "- Repository, technical unit, managers and provider are told by webhooks"
  status=$(curl -sS -o /dev/null -w '%{http_code}' -H 'webhook-id: 1' -H "webhook-timestamp: $(date +%s)" -H 'webhook-signature: v1,bm90IG91cnM=' \
    --data '{}' "$BASE/hooks/repository")
  [ "$status" = 401 ] || fail "An event that the service has not signed is not taken" "the answer was $status"
  say "- An event that the service has not signed is not taken"
  beside repository_is_told
else
  say "This service calls nobody on this machine (LOCKSTEP_EGRESS_ALLOW=127.0.0.0/8 would allow it): the repository asks by itself."
  employ repository repository
fi
employ ea-glite ea_glite
employ ea-unicore ea_unicore

act "The provider submits software, and its repository cannot be reached"
refused "What is missing is demanded, all of it" "missing or empty: bugs, certification_report, changelog, documentation, provider_repository" \
  as "$PROVIDER" release create --pipeline staged-rollout --service package=1 --meta "release_notes=New."
V1=1.0.$RUN
build "$V1"
first=$(release_of "$V1")
say "The provider submits middleware $V1: release $first."
await "$first" "The repository fails, and says so in its own words" \
  '.state == "failed" and .shown_as == "Certified" and (step("to_unverified").reports.repository | .status == "Failed" and (.comment | test("404")))'
claim "The release is the technical unit's now" "$SHOWN" '.assigned == "technical-unit" and .waits_for_whom == ["technical-unit"]'
notified technical-unit "$first" "The technical unit is told" '.event == "assigned" and .result == "fail"'
upload "$V1"
say "The provider uploads what it had forgotten."
quietly as "$VERIFIER" release retry "$first" --reason "the provider has uploaded it"
await "$first" "Tried again, the repository has it, and says where: Unverified" \
  '.stage == "verification" and .state == "waiting" and (.stages[0].steps[0].reports.repository | .status == "Unverified" and .result == "pass")'
notified technical-unit "$first" "The technical unit is to verify it" '.event == "verification.requested"'

act "The technical unit verifies it, and rejects it"
link=$(jq -r '.stages[0].steps[0].reports.repository.link' <<<"$SHOWN")
if ! { fetch "$link" "$WORK/verified.tar" && is_what_was_released "$WORK/verified.tar" "$SHOWN"; }; then
  fail "The package is where the repository says, and is what was released" "$link"
fi
say "- The package is where the repository says, and is what was released: $link"
manual=$(jq -r .metadata.documentation <<<"$SHOWN")
if fetch "$manual" "$WORK/manual" 2>/dev/null; then fail "The manual is not there" "$manual"; fi
quietly as "$VERIFIER" release reject "$first" --reason "the manual of $V1 is not there"
claim "There is no manual: it is rejected" "$(show "$first")" '.state == "decided" and .decision.verdict == "rejected"'
notified "$PROVIDER" "$first" "The provider is told, and why" '.event == "rejected" and .reason == "the manual of '"$V1"' is not there"'

act "The next version is verified"
V2=1.1.$RUN
build "$V2"
upload "$V2"
printf 'Manual of %s\n' "$V2" >"$WWW/provider/manual-$V2"
second=$(release_of "$V2")
say "The provider submits middleware $V2: release $second."
await "$second" "The repository has it: Unverified" '.stage == "verification" and .state == "waiting"'
fetch "$(jq -r .metadata.documentation <<<"$SHOWN")" "$WORK/manual" || fail "The manual is there"
refused "A manager is not of the technical unit" "an approval is asked for from technical-unit" as "$MANAGER" release approve "$second"
quietly as "$VERIFIER" release approve "$second" --reason "complete, and it installs"
await "$second" "The technical unit approves it, and the repository moves it on: Stage-Rollout" \
  '[.stages[] | select(.stage == "verification").steps[] | select(.name == "to_staged_rollout") | .reports.repository | .status == "Stage-Rollout" and .result == "pass"] == [true]'
notified staged-rollout "$second" "The managers are told" '.event == "assigned" and .group == "staged-rollout"'

act "Early adopters try it"
await "$second" "Both have tried it; the managers decide whether it goes on" '.state == "ready" and .stage == "rollout" and .shown_as == "Rolling-out"'
claim "One of them has something to say" "$SHOWN" \
  'step("early_adopters") | .result == "warning" and .note == "warning: ea-unicore" and (.reports["ea-unicore"].comment | length) > 0'
refused "No stage is left out" "the next stage is grace, not done" as "$MANAGER" release promote "$second" --to "done"
quietly as "$MANAGER" release promote "$second" --to grace --reason "tried by two"

act "The grace period, which is cut short"
await "$second" "It is in its grace period, for a week" '.shown_as == "Grace-period" and .waits_for == "time to pass"'
claim "It says until when" "$SHOWN" 'step("grace_period") | .soak_until > .started_at'
refused "An early adopter cannot cut it short" "role is reporter" as ea-glite release bypass "$second" --reason "I want it"
WHY="a vulnerability is being exploited"
quietly as "$MANAGER" release bypass "$second" --reason "$WHY"
await "$second" "A manager cuts it short, and the repository moves it on: Production" '.stage == "done" and .waits_for == "1 approval"'
claim "Who has cut it short, and why, stays in the release" "$SHOWN" \
  '[.stages[] | select(.stage == "grace").steps[0] | .result == "warning" and .bypass.by == $who and .bypass.reason == $why] == [true]' \
  --arg who "$MANAGER" --arg why "$WHY"
claim "And in the audit log" "$(operator audit --lines 100 --json)" \
  '[.lines[] | select(.what == "bypass-release" and (.about | startswith($id))) | .by == $who and .reason == $why] == [true]' \
  --arg id "$second" --arg who "$MANAGER" --arg why "$WHY"

act "The outcome"
refused "It cannot be ended before the managers have looked" "not all is done in its stage" as "$MANAGER" release decide "$second" accepted
quietly as "$MANAGER" release approve "$second"
await "$second" "It is not over without an outcome" '.state == "undecided" and .waits_for == "decision"'
quietly as "$MANAGER" release decide "$second" accepted_with_warnings --reason "one early adopter was warned"
notified "$PROVIDER" "$second" "The provider is told the outcome" '.event == "accepted_with_warnings"'
SHOWN=$(show "$second")
claim "Its status was Certified, Verified, Rolling-out, Grace-period, done" "$SHOWN" \
  '[.stages[].shown_as] == ["Certified", "Verified", "Rolling-out", "Grace-period", "done"]'
claim "The repository has said Unverified, Stage-Rollout, Production" "$SHOWN" \
  '[.stages[].steps[].reports // {} | .repository // empty | .status] == ["Unverified", "Stage-Rollout", "Production"]'
[ -e "$FOLDERS/production/package-$V2.tar" ] || fail "The package is in production" "$(ls "$FOLDERS"/*)"
fetch "$(jq -r '[.stages[].steps[].reports // {} | .repository // empty | .link][-1]' <<<"$SHOWN")" "$WORK/production.tar" ||
  fail "The package is where the repository says" "$SHOWN"
say "- The package is in production, where the repository says"
operator release list --pipeline staged-rollout --version "$V2" --all
act "All is as told."
