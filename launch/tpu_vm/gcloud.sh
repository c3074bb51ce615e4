# shellcheck shell=bash disable=SC2034 # What it sets, the scripts use.
# What the scripts for a TPU VM share: which TPU, where, whose, and asking for it.

. "$(dirname "${BASH_SOURCE[0]}")/../preamble.sh"

# read_tpu "MORE FLAGS" WORD...: sets NAME, TYPE, ZONE, PROJECT, RUNTIME, and
# MANY_HOSTS where the slice has more than one.
read_tpu() {
  local small zone
  read_flags "--name --type --zone --project${1:+ $1}" "${@:2}"
  NAME=${CLOZE_NAME:-cloze}
  TYPE=${CLOZE_TYPE:-v5litepod-8}
  case $TYPE in
    v4-*) small=v4-8 RUNTIME=tpu-ubuntu2204-base zone=us-central2-b ;;
    v5litepod-*) small='v5litepod-1 v5litepod-4 v5litepod-8'
      RUNTIME=v2-alpha-tpuv5-lite zone=us-central1-a ;;
    v5p-*) small=v5p-8 RUNTIME=v2-alpha-tpuv5 zone=us-east5-a ;;
    v6e-*) small='v6e-1 v6e-4 v6e-8' RUNTIME=v2-alpha-tpuv6e zone=us-east1-d ;;
    *) refuse "--type=$TYPE is not known; choose v4-8, v5litepod-8 (v5e), v5p-8," \
      "v6e-8 or another size of these." ;;
  esac
  ZONE=${CLOZE_ZONE:-$zone}
  MANY_HOSTS=
  [[ " $small " == *" $TYPE "* ]] || MANY_HOSTS=yes
  PROJECT=${CLOZE_PROJECT:-}
  if [[ $DRY_RUN ]]; then
    PROJECT=${PROJECT:-<project>}
    return
  fi
  command -v gcloud >/dev/null || refuse "there is no gcloud here; install the" \
    "Google Cloud CLI and run \`gcloud auth login\`."
  PROJECT=${PROJECT:-$(gcloud config get-value project 2>/dev/null || true)}
  [[ $PROJECT && $PROJECT != '(unset)' ]] || refuse "no Google Cloud project is" \
    "set; name it with --project=ID or \`gcloud config set project ID\`."
}

# tpu GROUP VERB ...: `gcloud compute tpus` for this zone and project.
tpu() {
  run gcloud compute tpus "$@" "--zone=$ZONE" "--project=$PROJECT"
}

# ask GROUP VERB ...: the same; what it says becomes ANSWER.
ask() {
  if [[ $DRY_RUN ]]; then
    tpu "$@"
  else
    ANSWER=$(tpu "$@" 2>&1)
  fi
}

# Refuses unless the queued resource has become a TPU.
check_active() {
  ask queued-resources describe "$NAME" '--format=value(state.state)' ||
    refuse "there is no TPU $NAME in $ZONE of $PROJECT: ${ANSWER##*$'\n'}; make it" \
      "with launch/tpu_vm/create.sh, with the same --name, --type and --zone."
  [[ $DRY_RUN || $ANSWER == ACTIVE ]] || refuse "the TPU $NAME is $ANSWER and not" \
    "ACTIVE; wait, or, where it is SUSPENDED (preempted) or FAILED, run delete.sh" \
    "and create.sh."
}

on_worker() {
  tpu tpu-vm ssh "$NAME" "--worker=$1" "--command=$2"
}
