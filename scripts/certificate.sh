#!/usr/bin/env bash
# A self-signed certificate for this host in certs/. It is no CA: clients and runner containers trust it itself.
# One that is there and good for another week, or was not made here, is left alone, unless FORCE=1.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

crt=$ROOT/certs/certificate.crt
key=$ROOT/certs/certificate.key
have openssl || die "openssl is not installed" "Run: make setup"

if [ "${FORCE:-}" != 1 ] && [ -s "$crt" ] && [ -s "$key" ] && openssl x509 -in "$crt" -noout -checkend 604800 >/dev/null; then
  say "certs/certificate.crt is there and good until $(openssl x509 -in "$crt" -noout -enddate | cut -d= -f2) (FORCE=1 makes a new one)"
  exit 0
fi

# Only what was made here is replaced: a certificate of the operator's own, with its key, is not ours to throw away.
if [ "${FORCE:-}" != 1 ] && [ -s "$crt" ] && [ -s "$key" ]; then
  subject=$(openssl x509 -in "$crt" -noout -subject -nameopt RFC2253 2>/dev/null || true)
  issuer=$(openssl x509 -in "$crt" -noout -issuer -nameopt RFC2253 2>/dev/null || true)
  if [ "$subject" != subject=CN=lockstep ] || [ "$issuer" != issuer=CN=lockstep ]; then
    warn "certs/certificate.crt ends within a week or has ended, and was not made here: renew it (FORCE=1 replaces it by a self-signed one)"
    exit 0
  fi
fi

umask 077
work=$(mktemp -d "$ROOT/certs/.new.XXXXXX")
trap 'rm -rf "$work"' EXIT
host=$(hostname)
names="DNS:localhost,DNS:host.docker.internal,IP:127.0.0.1,IP:::1"
[[ $host =~ ^[A-Za-z0-9.-]+$ ]] && [ "$host" != localhost ] && names+=",DNS:$host"
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj "/CN=lockstep" \
  -addext "subjectAltName=$names" -addext "basicConstraints=critical,CA:FALSE" -addext "keyUsage=critical,digitalSignature" \
  -addext "extendedKeyUsage=serverAuth" -keyout "$work/key" -out "$work/crt" 2>"$work/log" ||
  { cat "$work/log" >&2; die "openssl made no certificate"; }
chmod 0644 "$work/crt"
mv "$work/key" "$key"
mv "$work/crt" "$crt"
say "certs/certificate.crt is made, for $names"
