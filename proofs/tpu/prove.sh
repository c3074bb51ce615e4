#!/usr/bin/env bash
# Proves what can be proven about the TPU path without a TPU: docs/tpu.md.
#
#   proofs/tpu/prove.sh [FOLDER]
#
# Makes the environment of a TPU VM in FOLDER/venv (Python 3.11, Linux x86-64, 4 GB),
# runs tests and the sample run in it, then lowers and compiles training steps.
# FOLDER is runs/tpu by default. The steps of bert_base take many minutes each.
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
FOLDER=${1:-runs/tpu}
PYTHON=$FOLDER/venv/bin/python
# Else libtpu asks the metadata server of Google Cloud what it runs on.
export TPU_SKIP_MDS_QUERY=1 TPU_ACCELERATOR_TYPE=v5litepod-8 \
  TPU_WORKER_HOSTNAMES=localhost TPU_WORKER_ID=0
export KERAS_BACKEND=tensorflow TF_CPP_MIN_LOG_LEVEL=3

if [[ ! -e $FOLDER/venv/installed ]]; then
  python3.11 -m venv "$FOLDER/venv"
  "$PYTHON" -m pip install --quiet --no-deps \
    --requirement launch/tpu_vm/requirements.txt \
    --requirement proofs/tpu/requirements.txt
  touch "$FOLDER/venv/installed"
fi

# Without what compiles for a CPU, which TensorFlow's wheel for TPUs cannot, and
# what splits words into pieces, which has not been tried there.
"$PYTHON" -m pytest -q \
  -k "not compiled and not compiles and not xla and not pieces" \
  --ignore=tests/input_pipeline/test_tokenizer.py \
  --ignore=tests/input_pipeline/test_wordpiece.py \
  tests/configs tests/input_pipeline tests/proofs \
  tests/trainer/modeling/test_{attention,encoder,heads,layers}.py
"$PYTHON" -m trainer.main --strategy=one_device --mode=pretrain \
  --workdir="$FOLDER/sample" --config.data.prepared_dir="$FOLDER/prepared" \
  --config.train.num_steps=20 --config.train.log_every=5 \
  --config.train.steps_per_call=5

# lower NAME CONFIG FLAGS...: for hosts of 4 chips (v4, v5p) and of 8 (v5e, v6e).
lower() {
  local replicas
  for replicas in 4 8; do
    "$PYTHON" -m proofs.tpu.lower --config="configs/$2.py" "${@:3}" \
      "--replicas=$replicas" "--out=$FOLDER/$1-$replicas"
  done
}
lower imdb imdb
lower imdb-finetune imdb --stage=finetune
lower bert_base bert_base
lower bert_base-by-4 bert_base --accumulation_steps=4
"$PYTHON" -m proofs.tpu.compile "$FOLDER"/*.mlir | tee "$FOLDER/table.md"
