#!/usr/bin/env bash
# The story of the shop from beginning to end: three services on two hosts, ordered, changed, one removed, one broken and mended. See
# README.md beside this. It needs what with-hosts.sh makes: examples/orders/with-hosts.sh examples/orders/play.sh
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$HERE/../lib.sh"

# Whoever comes to the proxy; both domains lead there.
PROXY=

# publish <service> <message> [sed expression]: changes the files of a service, and records them in its repository.
publish() {
  local service=$1 message=$2 change=${3:-} folder=$REPOSITORIES/$1
  if [ ! -d "$folder" ]; then
    cp -r "$HERE/services/$service" "$folder"
    git init -q -b main "$folder"
  fi
  [ -z "$change" ] || find "$folder" -type f -not -path '*/.git/*' -exec sed -i "$change" {} +
  git -c safe.directory="$folder" -C "$folder" add -A
  git -c safe.directory="$folder" -C "$folder" -c user.name=play -c user.email=play@shop.test commit -q -m "$message"
  # git reads a repository of somebody else's for nobody; runner containers have a user of their own.
  chown -R 10001 "$folder"
}

# get <domain> <path>: what the proxy answers.
get() { curl -sS --max-time 10 --resolve "$1:8080:$PROXY" "http://$1:8080$2"; }

# order <file> [option…]: gives it and follows it to its end.
order() {
  local said
  said=$(operator order apply "$@" --mode production 2>&1) || fail "the order $1 is carried out" "$said" "$(tail -n 20 "${SERVICE_LOG:-/dev/null}")"
}

# follow <task…>: follows an order, whose news are on standard input. When one of these tasks has begun, it calls `meanwhile` with its name.
follow() {
  local line all=
  while IFS= read -r line; do
    all+=$line$'\n'
    [[ $line == "task "*" of 5 "*" …" ]] || continue
    line=${line#task * of 5 }
    line=${line%% *}
    [[ " $* " != *" $line "* ]] || meanwhile "$line" >&2
  done
  printf '%s' "$all"
}

# shown <number>: an order as JSON. last: the newest.
shown() { operator order show "shop/$1" --json; }
last() { operator environment show shop --json | jq .newest_order; }
# The services that jobs of the newest order were at, and what they did.
touched() { shown "$(last)" | jq -c '[.tasks[] | select(.task == "services" or .task == "routes") | .jobs[] | select(.service) | "\(.operation) \(.service)"] | sort'; }

need
[ -n "${HOSTS:-}" ] && [ -n "${REPOSITORIES:-}" ] || fail "there are hosts and repositories" "Run: examples/orders/with-hosts.sh examples/orders/play.sh"
PROXY=$(docker container inspect -f "{{ (index .NetworkSettings.Networks \"$HOSTS\").IPAddress }}" "$HOSTS-one")
sed 's/path: \/accounts/path: \/people/' "$HERE/order.yml" >"$WORK/moved.yml"
# Without the front and its domain.
sed '/^front:/,$d' "$HERE/order.yml" >"$WORK/smaller.yml"

act "An environment of two hosts, and three services"
for service in catalogue accounts front; do publish "$service" "the first revision"; done
quietly operator environment add "$HERE/environment.yml" --reason "a play"
claim "The plan says what would be done, and does nothing" "$(operator order plan "$HERE/order.yml" --mode production --json)" \
  '([.services[].change] | unique) == ["create"] and .generate == ["database-password"] and (.routes.add | length) == 3 and .problems == []'
refused "Nothing leads there yet" "onnect" get api.shop.test /
# The dispatcher is killed in each of the five tasks, and started again by with-hosts.sh. Whoever follows the order, follows on.
meanwhile() {
  kill -s KILL "$(cat "$SERVICE_PROCESS")"
  note killed "$1"
}
SAID=$(operator order apply "$HERE/order.yml" --mode production 2>&1 | follow domains resources variables services routes) ||
  fail "the order is carried out" "$SAID" "$(tail -n 20 "$SERVICE_LOG")"
claim "The dispatcher was killed in one task after the other" "$(jq -Rn '[inputs]' "$WORK/killed")" 'length >= 3'
claim "The order went through its five tasks, and each was done once" "$(shown 1)" \
  '.state == "succeeded" and ([.tasks[].state] | unique) == ["done"] and [.tasks[].jobs | length] == [1, 1, 1, 3, 1] and ([.tasks[].jobs[].outcome] | unique) == ["succeeded"]'
claim "Every job has its output" "$(operator status "$(shown 1 | jq -r '.tasks[0].jobs[0].job_id')" --json)" '.outcome == "succeeded" and .inventory == "shop/environment"'

act "Every route, through the proxy"
CATALOGUE=$(get api.shop.test /things) ACCOUNTS=$(get api.shop.test /accounts/ada)
claim "The catalogue answers what no longer way leads elsewhere" "$CATALOGUE" '.service == "catalogue" and .path == "/things" and .prefix == ""'
claim "Accounts answers below its path, which is taken off" "$ACCOUNTS" '.service == "accounts" and .path == "/ada" and .prefix == "/accounts"'
claim "The longest way ends at the border of a name" "$(get api.shop.test /accountsx)" '.service == "catalogue"'
claim "Both know where the discovery service is" "$(jq -cs . <<<"$CATALOGUE$ACCOUNTS")" '.[0].discovery == .[1].discovery and (.[0].discovery | test("^http://(one|two)\\.shop\\.test:200"))'
claim "Both have the same password, which nobody was shown" "$(jq -cs . <<<"$CATALOGUE$ACCOUNTS")" '.[0].password == .[1].password and (.[0].password | length) == 64'
[[ $(get www.shop.test /) == *"Shop, revision 1"* ]] || fail "The front is served"
say "- The front is served"
[[ $(get other.shop.test /) != *Shop* ]] || fail "A domain that nobody ordered leads nowhere"
say "- A domain that nobody ordered leads nowhere"

act "Nothing has changed, and nothing is touched"
order --order shop/1
claim "The same order once more, by its number: no service was touched" "$(touched)" '. == []'
claim "The same process answers" "$(get api.shop.test /)" '.process == $before' --argjson before "$(jq .process <<<"$CATALOGUE")"

act "One revision and one path are changed"
publish catalogue "the second revision" 's/REVISION = 1/REVISION = 2/'
# Somebody thinks better of it while the service is deployed, and worse of that afterwards.
meanwhile() { quietly operator order cancel "shop/$(last)" --reason "not now"; }
code=0
SAID=$(operator order apply "$WORK/moved.yml" --mode production 2>&1 | follow services) || code=$?
[ "$code" -eq 1 ] || fail "the order is canceled" "it ended with $code: $SAID"
claim "The order was ended while a service was deployed" "$(shown "$(last)")" '.state == "canceled" and [.tasks[3].jobs[].outcome] == ["canceled"]'
quietly operator order retry "shop/$(last)" --reason "now"
claim "It was tried again, from where it was" "$(shown "$(last)")" '.state == "succeeded" and [.tasks[].jobs[] | select(.attempt == 2) | .service] == ["catalogue", null]'
claim "Only the catalogue was deployed" "$(touched)" 'unique == ["deploy catalogue"]'
claim "Its second revision answers, with the password of before" "$(get api.shop.test /)" '.revision == 2 and .password == $before.password' --argjson before "$CATALOGUE"
claim "Accounts answers by its new path, and is the same process" "$(get api.shop.test /people/ada)" '.prefix == "/people" and .process == $before.process' --argjson before "$ACCOUNTS"
claim "The old path leads to what is before it" "$(get api.shop.test /accounts/ada)" '.service == "catalogue"'

act "One service is removed"
order "$WORK/smaller.yml"
claim "Only the front was removed" "$(touched)" '. == ["remove front"]'
[[ $(get www.shop.test /) != *Shop* ]] || fail "Its domain leads nowhere"
say "- Its domain leads nowhere"
claim "It is not known any more" "$(operator environment show shop --json)" '[.modes.production.services[].id] == ["accounts", "catalogue"]'

act "One service breaks"
for host in one two; do docker exec -u deploy "$HOSTS-$host" touch /srv/orders/no-database; done
publish catalogue "the third revision" 's/REVISION = 2/REVISION = 3/'
publish accounts "the second revision" 's/"revision": 1/"revision": 2/'
code=0
SAID=$(operator order apply "$HERE/order.yml" --mode production 2>&1) || code=$?
[ "$code" -eq 1 ] || fail "the order is incomplete" "it ended with $code: $SAID"
NUMBER=$(last)
claim "The order is incomplete, and names the service" "$(shown "$NUMBER")" '.state == "incomplete" and .failed == ["catalogue"] and (.reason | contains("catalogue"))'
[[ $SAID == *"catalogue"* && $SAID == *"lockstep logs"* ]] || fail "what is said names it, and its output" "$SAID"
say "- What is said names it, and where its output is"
JOB=$(shown "$NUMBER" | jq -r '[.tasks[].jobs[] | select(.service == "catalogue")] | last | .job_id')
[[ $(operator logs "$JOB") == *"there is no database"* ]] || fail "its output shows its own words" "$(operator logs "$JOB" | tail -n 40)"
say "- Its output shows its own words: there is no database"
claim "What ran before serves again" "$(get api.shop.test /)" '.revision == 2'
claim "It held up no other: accounts is at its second revision" "$(get api.shop.test /accounts/)" '.revision == 2'
[[ $(get www.shop.test /) == *"Shop, revision 1"* ]] || fail "The front is back"
say "- It held up no other: the front is back"

act "It is mended, and the order tried again"
for host in one two; do docker exec -u deploy "$HOSTS-$host" rm /srv/orders/no-database; done
quietly operator order retry "shop/$NUMBER" --reason "there is a database again"
claim "Only what had failed was done again" "$(shown "$NUMBER")" \
  '.state == "succeeded" and .attempt == 2 and [.tasks[].jobs[] | select(.attempt == 2) | .service] == ["catalogue"]'
claim "Its third revision answers" "$(get api.shop.test /)" '.revision == 3'

act "What is wrong is refused, and nothing is touched"
sed 's/type: node/type: cobol/' "$HERE/order.yml" >"$WORK/wrong.yml"
refused "An unknown type" "wrong.yml:1" operator order plan "$WORK/wrong.yml" --mode production
sed 's/path: \/accounts/path: \//' "$HERE/order.yml" >"$WORK/wrong.yml"
refused "Two services at one place" "leads to catalogue and accounts" operator order apply "$WORK/wrong.yml" --mode production
sed 's/memory: 300/memory: 900/' "$HERE/order.yml" >"$WORK/wrong.yml"
refused "No host has room" "no host has room for service" operator order apply "$WORK/wrong.yml" --mode production
sed 's/environment_id: "shop"/environment_id: "none"/' "$HERE/order.yml" >"$WORK/wrong.yml"
refused "An unknown environment" "none" operator order apply "$WORK/wrong.yml" --mode production
sed 's/repositories\/front/repositories\/nothing/' "$HERE/order.yml" >"$WORK/wrong.yml"
code=0
operator order apply "$WORK/wrong.yml" --mode production >/dev/null 2>&1 || code=$?
[ "$code" -eq 1 ] || fail "a repository that is not there fails the order" "it ended with $code"
claim "A repository that is not there fails the first task, before anything is touched" "$(shown "$(last)")" \
  '.state == "failed" and .tasks[0].state == "failed" and ([.tasks[1:][].jobs[]] == [])'
claim "All is as it was" "$(get api.shop.test /)" '.revision == 3'

act "All of it is removed"
printf 'action: remove\nenvironment_id: shop\n' >"$WORK/remove.yml"
order "$WORK/remove.yml"
claim "Nothing is deployed any more" "$(operator environment show shop --json)" '.modes.production | .services == [] and .routes == [] and .domains == []'
say ""
say "All is as told."
