#!/usr/bin/env bash
# Asks for a Cloud TPU VM, as a queued resource. It costs money from the moment
# it is ACTIVE until delete.sh, whether it computes or not.
#
#   launch/tpu_vm/create.sh [--type=v6e-8] [--project=ID] [--dry_run]
#
# --name     of the queued resource and of the VM; cloze
# --type     v4-8 | v5litepod-1, -4, -8 (v5e) | v5p-8 | v6e-1, -4, -8;
#            v5litepod-8. Larger slices have several hosts: written, never run
# --zone     by type: us-central2-b, us-central1-a, us-east5-a, us-east1-d
# --project  what `gcloud config get-value project` says
# --spot     yes = cheaper, may be taken away at any time | no; yes
#
# The same as variables, for all four scripts: CLOZE_NAME, CLOZE_TYPE and so on.

. "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
read_tpu "--spot" "$@"
case ${CLOZE_SPOT:-yes} in
  yes) SPOT=(--spot) ;;
  no) SPOT=() ;;
  *) refuse "--spot=$CLOZE_SPOT is not known; choose yes or no." ;;
esac

ask accelerator-types list '--format=value(name.basename())' ||
  refuse "gcloud cannot list the TPUs of $ZONE: ${ANSWER##*$'\n'}"
[[ $DRY_RUN || " ${ANSWER//$'\n'/ } " == *" $TYPE "* ]] || refuse "zone $ZONE has" \
  "no $TYPE but ${ANSWER//$'\n'/, }; choose another --zone or --type."
for group in queued-resources tpu-vm; do
  if ask "$group" describe "$NAME" '--format=value(state)' && [[ ! $DRY_RUN ]]; then
    refuse "a TPU called $NAME exists already in $ZONE ($group, ${ANSWER##*$'\n'});" \
      "choose another --name, or remove it with launch/tpu_vm/delete.sh."
  fi
done
if [[ $MANY_HOSTS ]]; then
  echo "WARNING: $TYPE has several hosts; nobody has run that yet." >&2
fi
ask queued-resources create "$NAME" "--node-id=$NAME" "--accelerator-type=$TYPE" \
  "--runtime-version=$RUNTIME" "${SPOT[@]}" ||
  refuse "gcloud did not create $NAME: ${ANSWER##*$'\n'} (a quota is raised in the" \
    "console, under IAM & Admin, Quotas)"
[[ $DRY_RUN ]] || echo "$NAME is in the queue. Next: setup.sh. It costs money from" \
  "ACTIVE until delete.sh; its state: gcloud compute tpus queued-resources list" \
  "--zone=$ZONE --project=$PROJECT"
