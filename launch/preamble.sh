# shellcheck shell=bash disable=SC2034 # What it sets, the scripts use.
# What every script here begins with: strict mode, flags, refusals, dry runs.
#
# A script sources this file, calls `read_flags`, and then wraps what it does in
# `run`, which prints instead where --dry_run is given.

set -euo pipefail
DRY_RUN=
ARGS=() # What stands after --: the flags of trainer.main.

# Absolute, because everything runs in the checkout, wherever it is called from.
SCRIPT=$(cd "$(dirname "$0")" && pwd)/${0##*/}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$ROOT"

refuse() {
  printf '%s: %s\n' "${SCRIPT##*/}" "$*" >&2
  exit 2
}

# The words as a line that a shell would read as the same words.
quoted() {
  local word line='' quote="'\\''"
  for word in "$@"; do
    [[ $word =~ ^[A-Za-z0-9_./:=,@%+-]+$ ]] || word="'${word//\'/"$quote"}'"
    line+="${line:+ }$word"
  done
  printf '%s' "$line"
}

run() {
  if [[ $DRY_RUN ]]; then
    printf '%s\n' "$(quoted "$@")"
  else
    "$@"
  fi
}

# The comment at the head of the script is its help.
usage() {
  local line
  { read -r && while read -r line && [[ $line == '#'* ]]; do
    [[ $line == '#SBATCH'* ]] || { line=${line#\#} && printf '%s\n' "${line# }"; }
  done; } <"$SCRIPT"
}

# read_flags "NAME ..." WORD...: sets CLOZE_NAME from --name=value, for the names
# that the script has; a variable that is set already is the default.
read_flags() {
  local known=" $1 --dry_run --help " word name
  shift
  while (($#)); do
    word=$1 name=${1%%=*}
    shift
    case $word in
      --help | -h) usage && exit ;;
      --dry_run) DRY_RUN=yes && continue ;;
      --) ARGS=("$@") && return ;;
    esac
    [[ $known == *" $name "* && $name == --[a-z]* ]] || refuse "$word is not" \
      "known; choose from${known% }; flags of trainer.main stand after --."
    if [[ $word != *=* ]]; then
      (($#)) && [[ $1 != --* ]] || refuse "$name has no value; write $name=VALUE."
      word=$name=$1
      shift
    fi
    [[ ${word#*=} ]] || refuse "$name has no value; write $name=VALUE."
    name=${name#--}
    printf -v "CLOZE_${name^^}" '%s' "${word#*=}"
  done
}

# number NAME VALUE LEAST MOST: refuses what is not a whole number between them.
number() {
  if ! [[ $2 =~ ^(0|[1-9][0-9]{0,8})$ ]] || (($2 < $3 || $2 > $4)); then
    refuse "$1=$2 must be a whole number from $3 to $4."
  fi
}

# Sets PYTHON: the interpreter of the environment that `make run` makes.
find_python() {
  PYTHON=${CLOZE_PYTHON:-.venv/bin/python}
  [[ $DRY_RUN ]] || command -v "$PYTHON" >/dev/null || refuse "there is no" \
    "$PYTHON in $ROOT; run \`make run\`, or name an interpreter in CLOZE_PYTHON."
}
