#!/usr/bin/env bash
# Builds the image of launch/docker/Dockerfile from this checkout.
#
#   launch/docker/build.sh --variant=gpu --tag=REGISTRY/ernie-m-jax:gpu --push
#
#   --variant=VARIANT   cpu (default), gpu or tpu: which JAX is in it
#   --tag=TAG           default: ernie-m-jax:VARIANT
#   --push              push it too
#   --dry_run           print the commands and run nothing
#
# Each flag with a value has a variable for its default: LAUNCH_VARIANT, LAUNCH_TAG.

set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=launch/restart.sh
. "$here/../restart.sh"
flag_variant=${LAUNCH_VARIANT-cpu}
flag_tag=${LAUNCH_TAG-}
switch_push=false

read_flags "$@"
((${#given[@]} == 0)) || fail "nothing comes after --"
case $flag_variant in
  cpu | gpu | tpu) ;;
  *) fail "--variant is '$flag_variant'; it must be cpu, gpu or tpu" ;;
esac
: "${flag_tag:=ernie-m-jax:$flag_variant}"
root=${here%/launch/docker}
[[ -f $root/pyproject.toml ]] || fail "$root is no checkout; the image is built from one"
build=(docker build "--file=$here/Dockerfile" "--build-arg=VARIANT=$flag_variant" "--tag=$flag_tag" "$root")
if dry_run; then
  line "${build[@]}"
  ! "$switch_push" || line docker push "$flag_tag"
  exit 0
fi
"${build[@]}"
! "$switch_push" || docker push "$flag_tag"
