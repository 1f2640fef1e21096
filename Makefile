# What each target does is in `make help`; how, in scripts/.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

.PHONY: help setup run upgrade demo doctor insight test test-ansible lint bench faults generate-selfsigned-cert stop

help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 28

setup: ## installs and makes whatever is missing: engine, Redis, images, certificates, secrets
	@scripts/setup.sh

run: ## the service, ready to use at https://localhost
	@scripts/run.sh

upgrade: ## replaces the running dispatcher by the code that is here, without refusing a connection
	@scripts/upgrade.sh

demo: ## run, plus a real deployment of app-one by Ansible over SSH
	@scripts/demo.sh

doctor: ## checks what the service stands on: configuration, certificate, Redis, engine, image
	@scripts/doctor.sh

insight: ## RedisInsight at http://localhost:8001 (its image comes from a registry)
	@scripts/run.sh insight

test: ## everything: rules, Redis, engine, API, Ansible over SSH
	@scripts/setup.sh tests
	@scripts/test.sh

test-ansible: ## the tests of ansible/ alone
	@scripts/setup.sh
	@ansible/tests/run

lint: ## formatting, clippy, licences and advisories, links of the documentation
	@scripts/lint.sh

bench: ## the figures of the README, as ratios taken in one run
	@scripts/setup.sh
	@scripts/bench.sh

faults: ## hundreds of deployments while everything is killed, stopped and wiped; prints the table of docs/faults.md
	@scripts/setup.sh tests
	@scripts/faults.sh

generate-selfsigned-cert: ## a certificate for localhost in certs/, unless a good one is there (FORCE=1: anyway)
	@scripts/certificate.sh

stop: ## stops service and demo; data stays (DATA=1: removes it too)
	@scripts/stop.sh
