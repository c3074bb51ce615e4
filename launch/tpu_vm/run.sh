#!/usr/bin/env bash
# Trains on the TPU VM and shows the output. The run goes on when the connection
# ends; the same command shows it again, or resumes it where it has stopped.
#
#   launch/tpu_vm/run.sh [--type=v6e-8] [--project=ID] [--dry_run] \
#       -- --workdir=gs://BUCKET/RUN [other flags of trainer.main]
#
# --name, --type, --zone, --project: as for create.sh
# --stop  yes = save and end the run instead
#
# What is not on gs:// is lost with the VM, and a spot VM may go at any time.

. "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
read_tpu "--stop" "$@"
check_active
TPU=local
if [[ $MANY_HOSTS ]]; then
  # Written, never run. One process drives all hosts, through a server on each.
  TPU=$NAME
  on_worker all 'cd cloze && (nohup .venv/bin/python -c "import tensorflow as tf
tf.distribute.Server({\"worker\": [\"0.0.0.0:8470\"]}, \"worker\", 0).join()" >server.log 2>&1 </dev/null &)'
fi
on_worker 0 "cd cloze && exec $(quoted launch/tpu_vm/remain.sh "--tpu=$TPU" \
  "--stop=${CLOZE_STOP:-no}" -- "${ARGS[@]}")"
