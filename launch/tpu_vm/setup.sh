#!/usr/bin/env bash
# Copies this checkout to the TPU VM and makes its environment; again = updates.
#
#   launch/tpu_vm/setup.sh [--type=v6e-8] [--project=ID] [--dry_run]
#
# --name, --type, --zone, --project: as for create.sh.

. "$(dirname "${BASH_SOURCE[0]}")/gcloud.sh"
read_tpu "" "$@"
check_active
on_worker all 'mkdir -p cloze'
tpu tpu-vm scp --recurse --worker=all configs input_pipeline launch storage trainer "$NAME:cloze/"
# The images bring Python 3.10; uv brings its own 3.11.
on_worker all 'cd cloze && python3 -m pip install --user --quiet uv &&
  ~/.local/bin/uv venv --quiet --allow-existing --python 3.11 .venv &&
  ~/.local/bin/uv pip install --quiet --python .venv/bin/python --no-deps --requirement launch/tpu_vm/requirements.txt &&
  .venv/bin/python -c "import keras, tensorflow as tf; print(\"TensorFlow\", tf.__version__, \"Keras\", keras.__version__)"'
