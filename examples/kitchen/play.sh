#!/usr/bin/env bash
# The story of examples/kitchen.yml from beginning to end: a vendor's product goes to the vendor's CI, then to the CIs of all customers who
# are subscribed to it; a sysadmin certifies it, and the customers deploy it. See README.md beside this.
set -euo pipefail
HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
. "$HERE/../lib.sh"

# Two apps and their secrets: what the two customers' CIs deploy in production.
APPS=${LOCKSTEP_APPS:-app-one:secret123 app-two:secretABC}
read -r APP_1 APP_2 _ <<<"$APPS "
VENDOR=kitchen-vendor SYSADMIN=kitchen-sysadmin
STORE=$WORK/store

# The vendor puts a product into the store: a marmite, which describes its deployment. Prints where it is.
publish() {
  local version=$1 nodes=$2
  mkdir -p "$STORE"
  printf 'product: kitchen\nversion: %s\nnodes: %s\n' "$version" "$nodes" >"$STORE/kitchen-$version.marmite"
  printf '%s\n' "$STORE/kitchen-$version.marmite"
}

# release_of <version> <nodes> [option…]: the vendor submits what it has published; prints the release's id.
release_of() {
  local version=$1 marmite
  marmite=$(publish "$version" "$2")
  shift 2
  submit "$VENDOR" --pipeline kitchen --service "product=$version" --reference "product=$marmite" \
    --digest "product=sha256:$(sha256sum "$marmite" | cut -d' ' -f1)" --meta "description=Kitchen $version" "$@"
}

# A CI fetches a product by its reference, looks whether it is what was released, and installs it on the nodes that it has.
install_on() {
  local nodes=$1 request=$2 marmite digest needed
  marmite=$(of "$request" '.services.product.reference // "nothing"')
  digest=$(of "$request" '.services.product.digest // "" | ltrimstr("sha256:")')
  printf 'fetched %s\n' "$marmite"
  sha256sum --check --quiet <<<"$digest  $marmite" || return 1
  needed=$(sed -n 's/^nodes: //p' "$marmite")
  printf '%s of %s: %s nodes are needed, there are %s\n' "$(of "$request" .kind)" "$(of "$request" .services.product.version)" "$needed" "$nodes"
  [ "$needed" -le "$nodes" ] && printf 'all nodes answer\n'
}

# validate <reporter> <request> <nodes> [option of the report…]
validate() {
  local name=$1 request=$2 nodes=$3 log=$WORK/$1.log result=pass
  shift 3
  install_on "$nodes" "$request" >"$log" 2>&1 || result=fail
  say "  $name validates $(of "$request" .services.product.version) ($(of "$request" .kind)): $result"
  report "$name" "$request" "$result" --log "$log" "$@"
}

# deploy <reporter> <request> <app:secret>: a real deployment of the customer's own app.
deploy() {
  local name=$1 request=$2 app=${3%%:*} secret=${3#*:} log=$WORK/$1.log version job
  version=$(of "$request" .services.product.version)
  if LOCKSTEP_DEPLOYMENT_SECRET=$secret env -u LOCKSTEP_TOKEN "$LOCKSTEP" deploy "$app" >"$log" 2>&1; then
    job=$(grep -oE '\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b' "$log" | sed -n 1p)
    say "  $name deploys $version by $app, job $job: pass"
    report "$name" "$request" pass --log "$log" --status Deployed --link "$LOCKSTEP_URL/api/v1/jobs/$job"
  else
    say "  $name deploys $version by $app: fail: $(tail -n 1 "$log")"
    report "$name" "$request" fail --log "$log"
  fi
}

vendor_ci() { validate "$1" "$2" 8 --comment "best effort: on the hardware that there is"; }
customer() {
  case $(of "$2" .action) in
  Deploy) deploy "$1" "$2" "$4" ;;
  *) validate "$1" "$2" "$3" ;;
  esac
}
customer1_ci() { customer "$1" "$2" 8 "$APP_1"; }
customer2_ci() { customer "$1" "$2" 4 "$APP_2"; }
customer3_ci() { fail "$1, who is subscribed to another product, is asked nothing" "it is asked: $2"; }

need
[ -n "${LOCKSTEP_APPS:-}" ] || [ "$LOCKSTEP_URL" = https://localhost ] ||
  fail "LOCKSTEP_APPS names two apps of $LOCKSTEP_URL and their secrets" "LOCKSTEP_APPS=\"app-one:secret123 app-two:secretABC\""
[ -n "$APP_2" ] || fail "LOCKSTEP_APPS names two apps and their secrets" "LOCKSTEP_APPS=\"app-one:secret123 app-two:secretABC\""

act "The product server knows the product, who validates it, and who is subscribed to it"
quietly operator pipeline apply "$HERE/../kitchen.yml" --reason "a play"
# The vendor belongs to the sysadmins too, and cannot certify what is its own all the same.
issue "$VENDOR" releaser --group sysadmins
issue "$SYSADMIN" releaser --group sysadmins
for ci in vendor-ci customer1-ci customer2-ci customer3-ci; do issue "$ci" reporter; done
clear_left_over kitchen "$VENDOR"
subscribe customer1-ci kitchen
subscribe customer2-ci kitchen
subscribe customer3-ci laundry
claim "customer1 and customer2 are subscribed to kitchen, and nobody else" "$(operator reporters list --json)" \
  '[.reporters[] | select(.products | index("kitchen")) | .name] == ["customer1-ci", "customer2-ci"]'
employ vendor-ci vendor_ci
employ customer1-ci customer1_ci
employ customer2-ci customer2_ci
employ customer3-ci customer3_ci

act "A product that one customer cannot use"
refused "A product without a description is not taken" "requires metadata that is missing or empty: description" \
  as "$VENDOR" release create --pipeline kitchen --service product=0
V1=1.0.$RUN-rc1
first=$(release_of "$V1" 6 --initial)
say "The vendor submits kitchen $V1, which needs 6 nodes: release $first."
await "$first" "It fails at the customers: customer2 has 4 nodes" '.state == "failed" and .stage == "customers"'
claim "It says who did not find it good" "$SHOWN" 'step("customer_validation") | .result == "fail" and .note == "fail: customer2-ci"'
claim "customer1 has found it good, with a log" "$SHOWN" \
  'step("customer_validation").reports | .["customer1-ci"].result == "pass" and (.["customer1-ci"].log | length) == 64'
claim "It waits for the sysadmins, to whom it is assigned" "$SHOWN" '.assigned == "sysadmins" and .waits_for_whom == ["sysadmins"]'
claim "The customers were asked when the vendor's CI had found it good, and not before" "$(events "$first")" \
  '[.[] | word] | index("vendor_validation.finished") < index("customer_validation.requested")'
claim "customer3 was asked by nobody" "$(events "$first")" 'told("customer_validation.requested") | [.[].reporter] == ["customer1-ci", "customer2-ci"]'
digest=$(jq -r '.stages[-1].steps[0].reports["customer2-ci"].log' <<<"$SHOWN")
log=$(as "$SYSADMIN" release log "$first" "$digest")
[[ $log == *"6 nodes are needed, there are 4"* ]] || fail "The sysadmin reads customer2's log" "$log"
say "- The sysadmin reads customer2's log: \"$(tail -n 1 <<<"$log")\""
claim "customer1 does not see what customer2 has reported" "$(as customer1-ci release show "$first" --json)" \
  '[.stages[].steps[].reports // {} | keys[]] == ["customer1-ci"]'
[ "$(as customer2-ci release log "$first" "$digest")" = "$log" ] || fail "customer2 reads its own log" "$log"
refused "Nor does customer1 read customer2's log" "no such log" as customer1-ci release log "$first" "$digest"
refused "customer3 does not even know the release" "no such release" as customer3-ci release show "$first"

quietly as "$SYSADMIN" release reject "$first" --reason "needs more nodes than customers have"
claim "The sysadmin rejects it, and the vendor sees why" "$(as "$VENDOR" release show "$first" --json)" \
  '.state == "decided" and (.decision | .verdict == "rejected" and .by == $by and .reason == "needs more nodes than customers have")' \
  --arg by "$SYSADMIN"
claim "The vendor is told: the event names it among those whom it concerns" "$(events "$first")" \
  'told("rejected")[0] | (.to | index($vendor)) and .submitter == $vendor' --arg vendor "$VENDOR"

# to_production <version> <nodes> [option…]: a product that everybody finds good, up to its decision.
to_production() {
  local version=$1 id
  id=$(release_of "$@")
  say "The vendor submits kitchen $version: release $id."
  await "$id" "All CIs have found it good; it waits for a certificate" '.state == "waiting" and .waits_for == "1 approval"'
  claim "It is not ready to deploy" "$(as customer1-ci catalogue --product kitchen --ready --json)" \
    '[.products[].versions[].release] | index($id) | not' --arg id "$id"
  refused "The vendor cannot certify it itself" "who cannot approve it" as "$VENDOR" release approve "$id"
  refused "Nor can a customer's CI" "role is reporter" as customer1-ci release approve "$id"
  quietly as "$SYSADMIN" release approve "$id" --reason "both customers are content"
  claim "The sysadmin certifies it: a customer's CI finds it in the catalogue as ready to deploy" \
    "$(as customer1-ci catalogue --product kitchen --ready --json)" \
    '.products[].versions[] | select(.release == $id) | .services.product.version == $version and .shown_as == "Ready to deploy"' \
    --arg id "$id" --arg version "$version"
  claim "customer3 finds nothing" "$(as customer3-ci catalogue --json)" '[.products[] | select(.product == "kitchen")] == []'
  await "$id" "Both customers have deployed it in production, and reported that with their logs" \
    '.state == "undecided" and ([step("production_deployment").reports[] | .result == "pass" and .status == "Deployed" and (.log | length) == 64] | all)'
  for job in $(jq -r '.stages[-1].steps[0].reports[].link | split("/")[-1]' <<<"$SHOWN"); do
    claim "Job $job has succeeded" "$(operator status "$job" --json)" '.outcome == "succeeded"'
  done
  refused "The release is not left open: it waits for its decision" "no step has failed; the release waits for decision" \
    as "$SYSADMIN" release retry "$id"
  quietly as "$SYSADMIN" release decide "$id" accepted --reason "in production at both customers"
  claim "It is accepted" "$(show "$id")" '.state == "decided" and .decision.verdict == "accepted" and .ready_to_deploy'
  # shellcheck disable=SC2034 # read by who calls this
  LAST=$id
}

act "A product that goes into production for the first time"
V2=1.0.$RUN
to_production "$V2" 4 --initial
initial=$LAST

act "An update of it"
V3=1.1.$RUN
to_production "$V3" 3
update=$LAST

act "What the catalogue says"
claim "The first was an initial deployment, the second an update; both are ready to deploy, and what was rejected is not" \
  "$(as customer2-ci catalogue --product kitchen --json)" \
  '[.products[].versions[] | select(.release as $it | [$a, $b, $c] | index($it)) | [.release, .kind, .decision, .ready_to_deploy]] ==
    [[$c, "update", "accepted", true], [$b, "initial", "accepted", true], [$a, "initial", "rejected", false]]' \
  --arg a "$first" --arg b "$initial" --arg c "$update"
operator catalogue --product kitchen --version "$V3"
act "All is as told."
