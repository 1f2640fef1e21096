#!/usr/bin/env bash
# Builds lockstep-base:bookworm with debootstrap, for machines that reach Debian's packages but no image registry.
# It stands in for debian:bookworm-slim: minbase, without documentation, manual pages, translations and package lists.
#
# What the machine needs to reach its packages, the image gets too: the mirrors of the machine's own apt, apt's Acquire::
# options (proxies, for instance) and the certification authorities that were added to the machine. On an ordinary
# machine that is Debian's mirror and nothing else.
#
# usage: images/base.sh [tag]
set -euo pipefail

SUITE=bookworm
TAG=${1:-lockstep-base:$SUITE}
DEFAULT_MIRROR=http://deb.debian.org/debian
DEFAULT_SECURITY=http://deb.debian.org/debian-security

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}
[ "$(id -u)" -eq 0 ] || fail "debootstrap needs root. Run this script as root, or give the machine access to an image registry."
command -v debootstrap >/dev/null || fail "debootstrap is not installed. Run: apt-get install debootstrap"

# Lines "URI CODENAME COMPONENT" of the machine's own apt, when it runs the same suite.
machine_sources() {
  command -v apt-get >/dev/null || return 0
  # shellcheck disable=SC2016 # apt's own placeholders
  apt-get indextargets --format '$(REPO_URI) $(CODENAME) $(COMPONENT) $(ORIGIN)' 'Created-By: Packages' 2>/dev/null |
    awk -v suite="$SUITE" '$4 == "Debian" && ($2 == suite || $2 == suite "-updates" || $2 == suite "-security") && $3 == "main" { print $1, $2 }' |
    sort -u
}

sources=$(machine_sources)
mirror=$(awk -v suite="$SUITE" '$2 == suite { print $1; exit }' <<<"$sources")
if [ -z "$mirror" ]; then
  mirror=$DEFAULT_MIRROR
  sources=$(printf '%s\n' "$DEFAULT_MIRROR $SUITE" "$DEFAULT_MIRROR $SUITE-updates" "$DEFAULT_SECURITY $SUITE-security")
fi

work=$(mktemp -d /var/tmp/lockstep-base.XXXXXX)
trap 'rm -rf "$work"' EXIT
root=$work/root

printf 'debootstrap %s from %s\n' "$SUITE" "$mirror"
debootstrap --variant=minbase "$SUITE" "$root" "$mirror"

awk '{ print "deb", $1, $2, "main" }' <<<"$sources" >"$root/etc/apt/sources.list"
if command -v apt-config >/dev/null; then
  apt-config dump | grep -E '^Acquire::(http|https|ftp|Check-|Retries|ForceIPv|Max-)' \
    >"$root/etc/apt/apt.conf.d/80machine" || rm -f "$root/etc/apt/apt.conf.d/80machine"
fi
mkdir -p "$root/usr/local/share/ca-certificates"
find /usr/local/share/ca-certificates -name '*.crt' -exec cp -- {} "$root/usr/local/share/ca-certificates/" \; 2>/dev/null || true

# Containers need neither what dpkg would put there again, nor services that a package wants to start.
cat >"$root/etc/dpkg/dpkg.cfg.d/90slim" <<'CONF'
path-exclude=/usr/share/doc/*
path-include=/usr/share/doc/*/copyright
path-exclude=/usr/share/man/*
path-exclude=/usr/share/info/*
path-exclude=/usr/share/locale/*
path-exclude=/usr/share/lintian/*
CONF
cat >"$root/etc/apt/apt.conf.d/90slim" <<'CONF'
APT::Install-Recommends "false";
Acquire::Languages "none";
DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/*.bin || true"; };
CONF
printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"

find "$root/usr/share/doc" -type f ! -name copyright -delete
find "$root/usr/share/doc" -type l -delete
rm -rf "$root"/usr/share/{man,info,locale,lintian}/* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/* \
  "$root"/var/cache/debconf/*-old "$root"/var/log/* "$root"/etc/hostname "$root"/etc/resolv.conf
: >"$root/etc/machine-id"

printf 'importing %s (%s)\n' "$TAG" "$(du -sh "$root" | cut -f1)"
tar --numeric-owner --exclude=./dev/* --exclude=./proc/* --exclude=./sys/* -C "$root" -c . |
  docker import \
    --change 'LABEL lockstep.project=lockstep' \
    --change "LABEL lockstep.inputs=${LOCKSTEP_INPUTS:-unknown}" \
    --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
    --change 'CMD ["bash"]' \
    - "$TAG"
