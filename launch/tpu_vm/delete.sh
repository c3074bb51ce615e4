#!/usr/bin/env bash
# Saves and stops what runs on the TPU VM, then deletes it with all on its disk.
#
#   launch/tpu_vm/delete.sh [--type=v6e-8] [--project=ID] [--dry_run]
#
# --name, --type, --zone, --project: as for create.sh. Nothing else is deleted.

. "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
read_tpu "" "$@"
# A VM that was taken away or never came has nothing to save.
on_worker 0 'cd cloze && launch/tpu_vm/remain.sh --stop=yes' ||
  echo "nothing was saved on $NAME: no run there, or no connection" >&2
ask queued-resources delete "$NAME" --force --quiet ||
  refuse "gcloud did not delete $NAME in $ZONE of $PROJECT: ${ANSWER##*$'\n'}; as" \
    "long as it is ACTIVE it costs money, so look at it in the console."
