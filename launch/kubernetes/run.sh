#!/usr/bin/env bash
# Trains in a Kubernetes cluster: fills in job.yaml and applies it.
#
#   launch/kubernetes/run.sh [--image=I] [--dry_run] [-- flags of trainer.main]
#
# --image    what launch/Dockerfile made, where the cluster finds it; cloze:latest
# --workers  pods; 2
# --gpus     GPUs of every pod; 0
# --storage  size of the volume, which outlives the job; 100Gi
# --name     of the job, the service and the volume; cloze
#
# The same as variables: CLOZE_IMAGE and so on. --dry_run prints the manifest.
# Preempted pods start again and resume. Stop: kubectl delete job/cloze, which
# saves; what is left then: kubectl delete service/cloze pvc/cloze.

. "$(dirname "${BASH_SOURCE[0]}")/../preamble.sh"
read_flags "--image --workers --gpus --storage --name" "$@"
NAME=${CLOZE_NAME:-cloze}
WORKERS=${CLOZE_WORKERS:-2}
GPUS=${CLOZE_GPUS:-0}
number --workers "$WORKERS" 1 1000
number --gpus "$GPUS" 0 64
[[ $NAME =~ ^[a-z]([a-z0-9-]{0,50}[a-z0-9])?$ ]] || refuse "--name=$NAME must be" \
  "small letters, digits and hyphens, such as cloze-2."

declare -A VALUES=([NAME]=$NAME [WORKERS]=$WORKERS [GPUS]=$GPUS
  [RETRIES]=$((WORKERS * 3)) [IMAGE]=${CLOZE_IMAGE:-cloze:latest} [STORAGE]=${CLOZE_STORAGE:-100Gi})
for ((index = 0; index < WORKERS; index++)); do
  VALUES[HOSTS]+="${VALUES[HOSTS]:+,}$NAME-$index.$NAME"
done
# A list of JSON strings is YAML too. Kubernetes reads $$( as $(.
# shellcheck disable=SC2016
VALUES[ARGS]='["--index=$(JOB_COMPLETION_INDEX)", "--"'
for word in "${ARGS[@]}"; do
  word=${word//\\/\\\\} word=${word//\"/\\\"}
  VALUES[ARGS]+=", \"${word//\$(/\$\$(}\""
done
VALUES[ARGS]+=']'

manifest() {
  local line
  while IFS= read -r line; do
    if [[ $line =~ ^(.*:\ ).*\ \ \#\ ([A-Z]+)$ ]]; then
      line=${BASH_REMATCH[1]}${VALUES[${BASH_REMATCH[2]}]}
    fi
    printf '%s\n' "$line"
  done <launch/kubernetes/job.yaml
}

if [[ $DRY_RUN ]]; then
  manifest
else
  command -v kubectl >/dev/null || refuse "there is no kubectl here; install it," \
    "or apply what --dry_run prints elsewhere."
  manifest | kubectl apply -f -
fi
