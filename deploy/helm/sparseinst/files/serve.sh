#!/bin/sh
# Triton in place of this shell, so that it gets Kubernetes' SIGTERM: serve.sh CLOSED_APIS FLAG...
# CLOSED_APIS, a list with commas, answer only to who sends the key, in the header sparseinst-admin-key over HTTP and
# triton-grpc-protocol-sparseinst-admin-key over gRPC. It is the content of /admin/key, else drawn anew at each start and
# known to nobody. Other processes of the container can read it among Triton's arguments; nothing else runs here.
set -eu
closed=$1
shift
if [ -n "$closed" ]; then
  if [ -r /admin/key ]; then
    key=$(cat /admin/key)
  else
    key=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
  fi
  if [ "${#key}" -lt 16 ]; then
    echo "serve: the admin key has ${#key} letters; wanted at least 16, in the file key of the Secret" >&2
    exit 1
  fi
  set -- "$@" "--http-restricted-api=$closed:sparseinst-admin-key=$key" "--grpc-restricted-protocol=$closed:sparseinst-admin-key=$key"
fi
exec tritonserver "$@"
