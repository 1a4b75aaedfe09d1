#!/usr/bin/env bash
# Run a command in a file system as a container runtime does with `--read-only --tmpfs /tmp --user 10001`: in mount and
# process namespaces of its own, so that whatever it starts ends with it. Wants root.
#   ci/as_container.sh ROOT NAME=VALUE... COMMAND...
set -euo pipefail
root=$1
shift
# shellcheck disable=SC2016
exec unshare --mount --pid --fork --kill-child bash -euc '
  root=$1
  shift
  cat /etc/hosts >"$root/etc/hosts" # a runtime brings its own
  mount --bind "$root" "$root"
  mount -o remount,bind,ro "$root"
  mount -t proc proc "$root/proc"
  mount -t tmpfs tmpfs "$root/tmp"
  mount -t tmpfs tmpfs "$root/dev"
  for device in null zero random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mkdir "$root/dev/shm"
  mount -o remount,ro "$root/dev"
  mount -t tmpfs tmpfs "$root/dev/shm"
  exec chroot --userspec=10001:10001 "$root" /usr/bin/env -i "$@"' as_container "$root" "$@"
