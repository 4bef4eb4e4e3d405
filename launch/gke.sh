#!/usr/bin/env bash
# Trains on GKE: fills launch/gke_jobset.yaml and creates it with kubectl, or calls XPK. The image is launch/docker's.
#
#   launch/gke.sh --name=mine --image=REGISTRY/ernie-m-jax:tpu --claim=shared \
#     --accelerator=tpu-v5-lite-podslice --topology=4x4 -- --config=CONFIG --workdir=/shared/run
#   launch/gke.sh --name=mine --image=REGISTRY/ernie-m-jax:gpu --claim=shared \
#     --accelerator=nvidia-h100-80gb --hosts=2 -- --config=CONFIG --workdir=/shared/run
#   launch/gke.sh --name=mine --image=REGISTRY/ernie-m-jax:tpu --xpk_cluster=CLUSTER --xpk_type=v5litepod-16 \
#     -- --config=CONFIG --workdir=/shared/run
#
# What stands after -- goes to `python -m ernie_m_jax.main` as it is; the work directory is on the claim
# (ReadWriteMany), or on what the XPK cluster mounts. The cluster must have JobSet (XPK installs it) and be kubectl's
# current one.
#
# Status 42 of the training (SIGTERM came, all is saved) or a node that was taken away restarts all pods, at most
# --max_restarts times; any other status fails the JobSet. The cluster does that by itself: nothing of this needs to
# run.
#
#   --name=NAME               of the JobSet, or XPK's workload
#   --image=IMAGE             what the cluster pulls
#   --claim=CLAIM             persistent volume claim that all hosts share; --mount=PATH: where; default: /shared
#   --accelerator=LABEL       cloud.google.com/gke-tpu-accelerator or gke-accelerator of the nodes
#   --topology=AxB            of a TPU; it and --chips give the number of hosts
#   --chips=N                 per host; default: 4 for a TPU, 8 for GPUs
#   --hosts=N                 with GPUs; default: 1
#   --spot                    on spot nodes
#   --namespace=NAMESPACE     default: kubectl's
#   --xpk_cluster=CLUSTER     call XPK, with --xpk_type=TYPE (v5litepod-16, h100-80gb-8), on --hosts nodes of GPUs
#   --max_restarts=N          default: 100
#   --dry_run                 print the command with what it reads, and run nothing
#
# Each flag with a value has a variable for its default: LAUNCH_NAME, LAUNCH_IMAGE and so on.

set -euo pipefail
here=$(dirname "$0")
# shellcheck source=launch/restart.sh
. "$here/restart.sh"
flag_name=${LAUNCH_NAME-}
flag_image=${LAUNCH_IMAGE-}
flag_claim=${LAUNCH_CLAIM-}
flag_mount=${LAUNCH_MOUNT-/shared}
flag_accelerator=${LAUNCH_ACCELERATOR-}
flag_topology=${LAUNCH_TOPOLOGY-}
flag_chips=${LAUNCH_CHIPS-}
flag_hosts=${LAUNCH_HOSTS-1}
flag_namespace=${LAUNCH_NAMESPACE-}
flag_xpk_cluster=${LAUNCH_XPK_CLUSTER-}
flag_xpk_type=${LAUNCH_XPK_TYPE-}
switch_spot=false
PORT=12355

read_flags "$@"
need_given
need name image
need_number hosts
# With -hosts-0-0 behind it, it must be a host's name, of 63 characters at most.
[[ $flag_name =~ ^[a-z]([a-z0-9-]{0,38}[a-z0-9])?$ ]] ||
  fail "--name is '$flag_name'; it must be at most 40 of a-z, 0-9 and -, beginning with a letter"
training=(python -m ernie_m_jax.main "${given[@]}")

if [[ $flag_xpk_cluster ]]; then
  need xpk_type
  command=(xpk workload create "--cluster=$flag_xpk_cluster" "--workload=$flag_name" "--docker-image=$flag_image")
  case $flag_xpk_type in
    v[0-9]* | tpu*) command+=("--tpu-type=$flag_xpk_type" --num-slices=1) ;;
    *) command+=("--device-type=$flag_xpk_type" "--num-nodes=$flag_hosts") ;;
  esac
  ! "$switch_spot" || command+=(--spot)
  # XPK's JobSets restart on 42 by themselves, and on statuses from 127 on.
  command+=("--max-restarts=$flag_max_restarts" --termination-grace-period-seconds=300)
  command+=("--command=$(line "${training[@]}")")
  if dry_run; then
    line "${command[@]}"
    exit 0
  fi
  exec "${command[@]}"
fi

need claim accelerator
labels=() environment='[]' annotations='{}'
if [[ $flag_topology ]]; then
  [[ $flag_topology =~ ^[1-9][0-9]*(x[1-9][0-9]*)+$ ]] ||
    fail "--topology is '$flag_topology'; it must be like 4x4 or 2x2x4"
  : "${flag_chips:=4}"
  need_number chips
  chips=$((${flag_topology//x/*}))
  ((flag_chips && chips % flag_chips == 0)) ||
    fail "--topology=$flag_topology are $chips chips, no multiple of --chips=$flag_chips"
  flag_hosts=$((chips / flag_chips))
  resource=google.com/tpu
  labels+=(cloud.google.com/gke-tpu-accelerator "$flag_accelerator" cloud.google.com/gke-tpu-topology "$flag_topology")
  # All pods on the nodes of one slice. How they find one another GKE tells them.
  annotations='{"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"}'
else
  [[ $flag_accelerator != tpu* ]] || fail "--topology is missing: $flag_accelerator is a TPU"
  : "${flag_chips:=8}"
  need_number chips
  resource=nvidia.com/gpu
  labels+=(cloud.google.com/gke-accelerator "$flag_accelerator")
  if ((flag_hosts > 1)); then
    environment='[{"name": "JAX_COORDINATOR_ADDRESS", "value": "'$flag_name-hosts-0-0.$flag_name:$PORT'"}'
    environment+=', {"name": "JAX_NUM_PROCESSES", "value": "'$flag_hosts'"}, {"name": "JAX_PROCESS_ID", "valueFrom": '
    environment+='{"fieldRef": {"fieldPath": "metadata.annotations['"'batch.kubernetes.io/job-completion-index'"']"}}}]'
  fi
fi
((flag_hosts)) || fail "--hosts must be at least 1"
tolerations='[]'
if "$switch_spot"; then
  labels+=(cloud.google.com/gke-spot true)
  tolerations='[{"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}]'
fi

for text in "${training[@]}" "$flag_image" "$flag_claim" "$flag_mount" "$flag_accelerator"; do
  [[ ${text//[$'\n\t']/} != *[[:cntrl:]]* ]] || fail "a control character is in $(line "$text")"
done

# A text as JSON, which YAML reads too.
quoted() {
  local text=$1
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\t'/\\t}
  printf '"%s"' "$text"
}

# Pairs of texts as a JSON object.
object() {
  local comma=''
  printf '{'
  while (($#)); do
    printf '%s%s: %s' "$comma" "$(quoted "$1")" "$(quoted "$2")"
    comma=', '
    shift 2
  done
  printf '}'
}

list() {
  local comma='' one
  printf '['
  for one; do
    printf '%s%s' "$comma" "$(quoted "$one")"
    comma=', '
  done
  printf ']'
}

manifest=$(<"$here/gke_jobset.yaml")
fill() {
  manifest=${manifest//"\${$1}"/"$2"}
}
fill NAME "$(quoted "$flag_name")"
fill ANNOTATIONS "$annotations"
fill MAX_RESTARTS "$flag_max_restarts"
fill HOSTS "$flag_hosts"
fill SELECTOR "$(object "${labels[@]}")"
fill TOLERATIONS "$tolerations"
fill ENVIRONMENT "$environment"
fill LIMITS "$(object "$resource" "$flag_chips")"
fill MOUNT "$(quoted "$flag_mount")"
fill CLAIM "$(quoted "$flag_claim")"
fill IMAGE "$(quoted "$flag_image")"
# Last, since the training's flags may hold anything. Kubernetes reads $$ in a command as $, and $(NAME) as a variable.
fill COMMAND "$(list "${training[@]//\$/\$\$}")"

command=(kubectl create ${flag_namespace:+"--namespace=$flag_namespace"} -f -)
if dry_run; then
  printf '%s <<"JOBSET"\n%s\nJOBSET\n' "$(line "${command[@]}")" "$manifest"
  exit 0
fi
"${command[@]}" <<<"$manifest"
