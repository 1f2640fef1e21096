#!/bin/sh
# Takes the keys from /run/target (mounted read-only), starts nginx, and becomes sshd.
#   authorized_keys        who may log in as `deploy`
#   ssh_host_ed25519_key   who this host is; made anew when there is none
# They are copied: sshd refuses keys that belong to somebody else, and on the machine that mounts them they do.
set -eu

keys=/run/target
if [ ! -r "$keys/authorized_keys" ]; then
  echo "error: $keys/authorized_keys is missing: mount a directory that has it at $keys" >&2
  exit 1
fi
install -d -m 0755 /etc/ssh/authorized_keys
install -m 0644 "$keys/authorized_keys" /etc/ssh/authorized_keys/deploy

host_key=/etc/ssh/ssh_host_ed25519_key
if [ -r "$keys/ssh_host_ed25519_key" ]; then
  install -m 0600 "$keys/ssh_host_ed25519_key" "$host_key"
elif [ ! -e "$host_key" ]; then
  ssh-keygen -q -t ed25519 -N '' -C target -f "$host_key"
fi
printf 'host key: %s\n' "$(ssh-keygen -y -f "$host_key")"

nginx
exec /usr/sbin/sshd -D -e
