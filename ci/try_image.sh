#!/usr/bin/env bash
# Build an image of deploy/docker without Docker and try it: on Debian or Ubuntu, as root, with buildah and mmdebstrap
# (apt-get install buildah mmdebstrap). The base image is made from Debian's packages, so no registry of images is asked;
# everything else is what a docker build does.
#
#   ci/try_image.sh cpu        starts it without rights on a read-only file system and sends it a picture
#   ci/try_image.sh training   asks it for the help of `sparseinst train` in the same way
#
# Images, and what the builds leave, are in build/images, and nothing else is touched. Where pip needs settings of yours
# (certificates, an index), it takes them from /etc/pip.conf and /etc/ssl/certs of this machine.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
image=${1:?wanted the image: cpu or training}
store=$PWD/build/images
base=localhost/debian:12-slim
export STORAGE_DRIVER=vfs BUILDAH_ISOLATION=chroot # both work inside containers, too

fail() {
  echo "try_image: $*" >&2
  exit 1
}
tool() { buildah --root "$store/root" --runroot "$store/run" "$@"; }

[[ $EUID -eq 0 ]] || fail "wanted root, to make file systems of images"
for program in buildah mmdebstrap unshare chroot; do
  command -v "$program" >/dev/null || fail "no $program here; apt-get install buildah mmdebstrap util-linux"
done
mkdir -p "$store"

if ! tool inspect --type image "$base" &>/dev/null; then
  mmdebstrap --quiet --variant=minbase --include=ca-certificates bookworm "$store/debian.tar"
  scratch=$(tool from scratch)
  tool add --quiet "$scratch" "$store/debian.tar" /
  tool commit --quiet --rm "$scratch" "$base" >/dev/null
  rm "$store/debian.tar"
fi

settings=(-v /etc/ssl/certs:/etc/ssl/certs:ro)
[[ ! -f /etc/pip.conf ]] || settings+=(-v /etc/pip.conf:/etc/pip.conf:ro)
tool bud --quiet --pull-never --format docker --network host --layers=false "${settings[@]}" --build-arg "DEBIAN=$base" \
  --build-arg "REVISION=$(git rev-parse HEAD)" -f "deploy/docker/$image.Dockerfile" -t "sparseinst/$image" . >"$store/$image.log" 2>&1 \
  || { tail -20 "$store/$image.log" >&2; fail "the build failed; all it said is in $store/$image.log"; }
echo "try_image: sparseinst/$image is built: $(tool images --format '{{.Size}}' "localhost/sparseinst/$image")"

container=$(tool from --pull-never "localhost/sparseinst/$image")
trap 'tool umount "$container" >/dev/null; tool rm "$container" >/dev/null' EXIT
root=$(tool mount "$container")
variables() { tool inspect --type image --format '{{range .OCIv1.Config.Env}}{{println .}}{{end}}' "localhost/sparseinst/$image"; }
mapfile -t environment < <(variables | sed '/^$/d')

case $image in
  cpu)
    .venv/bin/python ci/try_server_image.py ci/as_container.sh "$root" "${environment[@]}" /opt/sparseinst/run
    ;;
  training)
    ci/as_container.sh "$root" "${environment[@]}" torchrun --standalone --nproc-per-node=1 -m sparseinst train --help | head -3
    ;;
  *) fail "the image $image cannot be tried without its base; wanted cpu or training" ;;
esac
