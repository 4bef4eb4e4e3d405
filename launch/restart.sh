# shellcheck shell=bash
# What the launchers share: their flags, a command as one line that can be pasted, and running it again on status 42.
#
# A launcher sets flag_NAME, with its default, for each flag that takes a value and switch_NAME=false for each that
# takes none, and calls `read_flags "$@"`. What stands after -- is then in the array `given`.

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  echo "error: bash 4.4 or newer is needed, this is $BASH_VERSION" >&2
  exit 2
fi

RESTART=42 # ernie_m_jax/training/preemption.py; a test compares them
LAUNCHER=${0##*/}
flag_max_restarts=${LAUNCH_MAX_RESTARTS-100}
flag_restart_seconds=${LAUNCH_RESTART_SECONDS-10}
switch_dry_run=false

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 2
}

note() {
  printf '%s: %s\n' "$LAUNCHER" "$*" >&2
}

dry_run() {
  "$switch_dry_run"
}

# The comment at the head of the launcher.
usage() {
  awk 'NR == 1 { next } !/^#/ { exit } { sub(/^# ?/, ""); print }' "$0"
}

read_flags() {
  local argument name
  given=()
  while (($#)); do
    argument=$1
    shift
    case $argument in
      --) given=("$@") && break ;;
      -h | --help) usage && exit 0 ;;
      --*) ;;
      *) fail "unexpected argument $argument; the training's flags come after --" ;;
    esac
    name=${argument%%=*}
    name=${name#--}
    # Only what can be a name may be looked up: bash evaluates what stands in a subscript.
    if [[ ! $name =~ ^[a-z_]+$ || ! (-v flag_$name || -v switch_$name) ]]; then
      fail "unknown flag --$name; --help lists those of $LAUNCHER, the training's come after --"
    elif [[ -v switch_$name ]]; then
      [[ $argument != *=* ]] || fail "--$name takes no value"
      printf -v "switch_$name" true
    elif [[ $argument == *=* ]]; then
      printf -v "flag_$name" %s "${argument#*=}"
    else
      (($#)) || fail "--$name needs a value"
      printf -v "flag_$name" %s "$1"
      shift
    fi
  done
  need_number max_restarts restart_seconds
}

need_number() {
  local name value
  for name; do
    value=flag_$name
    [[ ${!value} =~ ^(0|[1-9][0-9]*)$ ]] || fail "--$name is '${!value}'; it must be a number from 0"
  done
}

need() {
  local name value
  for name; do
    value=flag_$name
    [[ ${!value} ]] || fail "--$name is missing; --help explains it"
  done
}

need_given() {
  ((${#given[@]})) || fail "the training's flags are missing; they come after --"
}

# A command as one line that any POSIX shell reads back as it is.
line() {
  local word text='' quote="'\\''"
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/$quote}'"
    text+=" $word"
  done
  printf '%s\n' "${text# }"
}

child='' # the process that runs
stopped='' # the signal that asked this process to stop
passed='' # whether the command has been told
status=0

# May be redefined: how a signal is passed on.
stop_child() {
  kill -s "$1" -- "$child" 2>/dev/null || true
}

pass() {
  passed=true
  stop_child "$1"
}

on_signal() {
  stopped=$1
  interrupted=true
  [[ ! $child ]] || pass "$1"
}

trap 'on_signal TERM' TERM HUP
trap 'on_signal INT' INT

# Runs a command to its end and sets `status`. A signal to this process is passed on, and the command is awaited.
run() {
  # With a process group of its own: a terminal's Ctrl-C reaches this process alone, which passes it on once.
  set -m
  "$@" </dev/null &
  child=$!
  set +m
  [[ ! $stopped || $passed ]] || pass "$stopped" # it came before the command was there
  while :; do
    interrupted='' status=0
    wait "$child" || status=$?
    [[ $interrupted ]] || break # a trapped signal ends `wait`, not the command
  done
  child=''
}

restarts=0

# Waits before the command may run again; fails if it may not: --max_restarts is reached, or this process was stopped.
again() {
  [[ ! $stopped ]] || return 1
  if ((restarts >= flag_max_restarts)); then
    note "$1; --max_restarts=$flag_max_restarts allows no more restarts"
    return 1
  fi
  restarts=$((restarts + 1))
  note "$1; restart $restarts of $flag_max_restarts in $flag_restart_seconds s"
  pause "$flag_restart_seconds"
  [[ ! $stopped ]]
}

# Sleeps, but not through a signal, whenever it comes.
pause() {
  local left=$1
  while ((left-- > 0)) && [[ ! $stopped ]]; do sleep 1; done
}

# Runs a command until it ends with another status than 42, and hands that on.
run_again() {
  while run "$@" && ((status == RESTART)) && again "preempted or hung (status 42)"; do :; done
  exit "$status"
}
