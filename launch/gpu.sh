#!/usr/bin/env bash
# Trains on this machine, with all its GPUs (or its CPU) in one process, and runs the command again when it was
# preempted.
#
#   launch/gpu.sh [FLAGS] -- --config=configs/pretrain/stage1.py --workdir=/shared/runs/stage1
#
# What stands after -- goes to `python -m ernie_m_jax.main` as it is. With several hosts, start this on each, with
# --coordinator=HOST:PORT --processes=N --process=I after the -- and a --workdir that all of them share.
#
# Status 42 of the training (SIGTERM came, all is saved) runs it again; any other status ends this too, and is handed
# on. SIGTERM, SIGHUP and Ctrl-C are passed on to the training, which saves; then it is not run again.
#
#   --gpus=0,1            GPUs that it may use (CUDA_VISIBLE_DEVICES); default: all
#   --python=PYTHON       default: python
#   --module=MODULE       what to run in place of ernie_m_jax.main, for instance launch.sweep
#   --max_restarts=N      default: 100
#   --restart_seconds=S   waited before a restart; default: 10
#   --dry_run             print the command and run nothing
#
# Each flag has a variable for its default: LAUNCH_GPUS, LAUNCH_PYTHON and so on.

set -euo pipefail
# shellcheck source=launch/restart.sh
. "$(dirname "$0")/restart.sh"
flag_gpus=${LAUNCH_GPUS-}
flag_python=${LAUNCH_PYTHON-python}
flag_module=${LAUNCH_MODULE-ernie_m_jax.main}

read_flags "$@"
need_given
need python module
command=("$flag_python" -m "$flag_module" "${given[@]}")
[[ ! $flag_gpus ]] || command=(env "CUDA_VISIBLE_DEVICES=$flag_gpus" "${command[@]}")
if dry_run; then
  line "${command[@]}"
  exit 0
fi
type -P "$flag_python" >/dev/null || fail "--python: there is no command '$flag_python'"
run_again "${command[@]}"
