#!/usr/bin/env bash
# Trains on a Cloud TPU: asks for it, installs the wheel on every worker, starts the training on all of them, and does
# all of it again when the TPU was taken away. Runs on any machine that has gcloud, logged in; it must stay on.
#
#   launch/tpu_vm.sh --name=mine --zone=europe-west4-b --accelerator_type=v5litepod-16 --spot \
#     --wheel=dist/ernie_m_jax-0.1.0-py3-none-any.whl --setup='sudo mount ADDRESS:/share /mnt' \
#     -- --config=CONFIG --workdir=/mnt/run
#
# What stands after -- goes to `python -m ernie_m_jax.main` as it is. A TPU that is taken away takes its disks with it,
# and all workers need the same work directory: it must be on shared storage, which --setup mounts.
#
# Status 42 of the training (SIGTERM came, all is saved) starts it again; so does a TPU that is gone, a new one of the
# same name. Any other status ends this too, and is handed on: the TPU stays then, and the command that deletes it is
# printed. SIGTERM and Ctrl-C make the workers save and end.
#
#   --name=NAME              of the TPU and of the request for it; one that is there is used
#   --zone=ZONE --project=P  P: gcloud's own default if it is not given
#   --accelerator_type=TYPE  for instance v4-32, v5litepod-16, v5p-8, v6e-16
#   --runtime_version=V      default: by the type
#   --spot                   cheaper, and may be taken away at any time
#   --wheel=FILE             `python -m build --wheel` makes it
#   --setup=COMMAND          run on every worker after the installation
#   --keep                   do not delete the TPU when the training is done
#   --poll_seconds=S         between looks at the request; default: 30
#   --max_restarts=N         default: 100
#   --restart_seconds=S      waited before a restart; default: 10
#   --dry_run                print the commands and run nothing
#
# Each flag with a value has a variable for its default: LAUNCH_NAME, LAUNCH_ZONE and so on.

set -euo pipefail
# shellcheck source=launch/restart.sh
. "$(dirname "$0")/restart.sh"
flag_name=${LAUNCH_NAME-}
flag_zone=${LAUNCH_ZONE-}
flag_project=${LAUNCH_PROJECT-}
flag_accelerator_type=${LAUNCH_ACCELERATOR_TYPE-}
flag_runtime_version=${LAUNCH_RUNTIME_VERSION-}
flag_wheel=${LAUNCH_WHEEL-}
flag_setup=${LAUNCH_SETUP-}
flag_poll_seconds=${LAUNCH_POLL_SECONDS-30}
switch_spot=false
switch_keep=false

read_flags "$@"
need_given
need name zone accelerator_type wheel
need_number poll_seconds
[[ $flag_name =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] ||
  fail "--name is '$flag_name'; it must be of a-z, 0-9 and -, beginning with a letter"
if [[ ! $flag_runtime_version ]]; then
  case $flag_accelerator_type in
    v2-* | v3-* | v4-*) flag_runtime_version=tpu-ubuntu2204-base ;;
    v5litepod-*) flag_runtime_version=v2-alpha-tpuv5-lite ;;
    v5p-*) flag_runtime_version=v2-alpha-tpuv5 ;;
    v6e-*) flag_runtime_version=v2-alpha-tpuv6e ;;
    *) fail "--runtime_version is missing: which fits $flag_accelerator_type is not known here" ;;
  esac
fi

where=("--zone=$flag_zone" ${flag_project:+"--project=$flag_project"} --quiet)
queued=(gcloud compute tpus queued-resources)
vm=(gcloud compute tpus tpu-vm)
create=("${queued[@]}" create "$flag_name" "--node-id=$flag_name" "--accelerator-type=$flag_accelerator_type"
  "--runtime-version=$flag_runtime_version")
! "$switch_spot" || create+=(--spot)
create+=("${where[@]}")
delete=("${queued[@]}" delete "$flag_name" --force "${where[@]}")
copy=("${vm[@]}" scp "$flag_wheel" "$flag_name:" --worker=all "${where[@]}")

# Run on every worker, in the home directory. The images' own Python is older than what the wheel needs.
install="python3 -m pip install --quiet --user uv"
install+=" && ~/.local/bin/uv venv --quiet --allow-existing --python 3.12 ernie-m-jax"
install+=" && ~/.local/bin/uv pip install --quiet --python ernie-m-jax/bin/python $(line "./${flag_wheel##*/}[tpu,gcs]")"
[[ ! $flag_setup ]] || install+=" && { $flag_setup; }"
# gcloud runs a command again whose connection broke. What the first one left is told to save, and awaited: two
# processes cannot share a TPU. The file is gone when the worker starts anew, so its number is no other process's.
pid=/dev/shm/ernie-m-jax.pid
stop="kill -TERM \"\$(cat $pid)\""
train="if [ -e $pid ] && $stop 2>/dev/null; then while kill -0 \"\$(cat $pid)\" 2>/dev/null; do sleep 1; done; fi"
train+="; echo \$\$ > $pid; exec "
train+=$(line env ERNIE_M_JAX_DISTRIBUTED=1 ernie-m-jax/bin/python -m ernie_m_jax.main "${given[@]}")

on_workers() {
  workers=("${vm[@]}" ssh "$flag_name" --worker=all "--ssh-flag=-o ServerAliveInterval=30" "--command=$1" "${where[@]}")
}

if dry_run; then
  line "${create[@]}"
  line "${copy[@]}"
  on_workers "$install" && line "${workers[@]}"
  on_workers "$train" && line "${workers[@]}"
  echo "# after status $RESTART the training again, after a lost TPU everything, at most $flag_max_restarts times"
  line "${delete[@]}"
  exit 0
fi
[[ -f $flag_wheel ]] || fail "--wheel: there is no file $flag_wheel; python -m build --wheel makes one in dist/"
type -P gcloud >/dev/null || fail "there is no command gcloud"

leave() {
  [[ ! $1 ]] || note "$1"
  if ((status == 0)); then
    case $stopped in TERM) status=143 ;; INT) status=130 ;; *) status=1 ;; esac
  fi
  note "the TPU stays, and costs; this deletes it: $(line "${delete[@]}")"
  exit "$status"
}

# In place of the ssh process here, the training's processes there; asked again, the ssh process too.
asked=false
stop_child() {
  ! "$asked" || kill -s TERM -- "$child" 2>/dev/null || true
  asked=true
  on_workers "$stop"
  "${workers[@]}" </dev/null >/dev/null 2>&1 || true
}

# State of the request and of its node, each empty where there is none.
look() {
  local request node
  request=$("${queued[@]}" list "--filter=name ~ (^|/)$flag_name\$" '--format=value(state.state)' "${where[@]}") &&
    node=$("${vm[@]}" list "--filter=name ~ (^|/)$flag_name\$" '--format=value(state)' "${where[@]}") &&
    printf '%s %s\n' "$request" "$node"
}

created=0
prepared=false

# Until there is a TPU with everything on it.
ready() {
  local state failed=0 said=''
  while :; do
    [[ ! $stopped ]] || leave ''
    if ! state=$(look); then
      failed=$((failed + 1))
      ((failed < 10)) || leave "gcloud cannot say what became of $flag_name"
      pause "$flag_poll_seconds"
      continue
    fi
    failed=0
    [[ $state == "$said" ]] || note "request and TPU: ${state/# /none }"
    said=$state
    case $state in
      'ACTIVE READY') break ;;
      ' '*)
        ((created <= flag_max_restarts)) || leave "--max_restarts=$flag_max_restarts allows no more TPUs"
        created=$((created + 1))
        prepared=false
        "${create[@]}" || leave "the TPU cannot be asked for"
        ;;
      FAILED*) leave "the request for $flag_name failed" ;;
      SUSPENDED* | 'ACTIVE PREEMPTED' | 'ACTIVE TERMINATED' | 'ACTIVE STOPPED')
        "${delete[@]}" || leave "what was taken away cannot be deleted"
        ;;
      *) pause "$flag_poll_seconds" ;;
    esac
  done
  if ! "$prepared"; then
    "${copy[@]}" || leave "the wheel cannot be copied"
    on_workers "$install"
    "${workers[@]}" </dev/null || leave "the workers cannot be prepared"
    prepared=true
  fi
}

# Whether the TPU was taken away. The connection breaks before the service knows.
gone() {
  local looks=1 state
  ((status != 255)) || looks=6
  while ((looks--)); do
    state=$(look) || return 1
    [[ $state == 'ACTIVE READY' ]] || return 0
    ((looks == 0)) || pause "$flag_poll_seconds"
  done
  return 1
}

while :; do
  ready
  on_workers "$train"
  run "${workers[@]}"
  ((status)) || break
  if [[ $stopped ]]; then
    leave ''
  elif ((status == RESTART)); then
    why="preempted or hung (status 42)"
  elif gone; then
    why="the TPU was taken away"
  elif ((status == 255)); then
    leave "the connection is lost and the TPU is there; the same command goes on"
  else
    leave ''
  fi
  again "$why" || leave ''
done
"$switch_keep" || "${delete[@]}"
