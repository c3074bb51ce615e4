#!/usr/bin/env bash
# On the TPU VM: trains on, whatever becomes of the connection; run.sh calls it.
#
#   launch/tpu_vm/remain.sh [--tpu=local] [--stop=yes] [-- flags of trainer.main]
#
# run.log has the output, run.pid the process group, run.code how it ended.

. "$(dirname "${BASH_SOURCE[0]}")/../preamble.sh"
read_flags "--tpu --stop" "$@"
find_python
# What TensorFlow 2.19.1 needs to find the TPU.
COMMAND=(env "TPU_NAME=${CLOZE_TPU:-local}" PJRT_DEVICE=TPU
  NEXT_PLUGGABLE_DEVICE_USE_C_API=true
  TF_XLA_FLAGS=--tf_mlir_enable_mlir_bridge=true
  "TF_PLUGGABLE_DEVICE_LIBRARY_PATH=$ROOT/.venv/lib/python3.11/site-packages/libtpu/libtpu.so"
  "$PYTHON" -m trainer.main --strategy=tpu "${ARGS[@]}")

is_running() {
  [[ -s run.pid ]] && kill -0 -- "-$(<run.pid)" 2>/dev/null
}

if [[ $DRY_RUN ]]; then
  run "${COMMAND[@]}"
  exit
fi
if [[ ${CLOZE_STOP:-no} == yes ]]; then
  is_running || { echo "nothing runs" && exit; }
  kill -TERM -- "-$(<run.pid)"
elif ! is_running; then
  rm -f run.code
  : >run.log # Before `tail` looks for it.
  # A group of its own, which ends with no terminal; it notes how it ended.
  # shellcheck disable=SC2016
  setsid bash -c 'trap : TERM HUP; "$@"; echo "$?" >run.code' remain \
    "${COMMAND[@]}" >>run.log 2>&1 </dev/null &
  echo "$!" >run.pid
fi
tail -n +1 -s 0.5 -f "--pid=$(<run.pid)" run.log
code=$(cat run.code 2>/dev/null || echo 1)
if [[ ${CLOZE_STOP:-no} == yes && $code == 143 ]]; then exit; fi # As asked.
exit "$code"
