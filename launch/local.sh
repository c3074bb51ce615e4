#!/usr/bin/env bash
# Trains on this machine: on all its GPUs, or on its CPU.
#
#   launch/local.sh [--strategy=S] [--dry_run] [-- flags of trainer.main]
#
# --strategy  mirrored, which takes every GPU, or the CPU where there is none
#
# The same as a variable: CLOZE_STRATEGY. CLOZE_PYTHON: the interpreter.
# The same command resumes. Ctrl-C and SIGTERM save first (exit 130 and 143).

. "$(dirname "${BASH_SOURCE[0]}")/preamble.sh"
read_flags "--strategy" "$@"
find_python
run exec "$PYTHON" -m trainer.main \
  "--strategy=${CLOZE_STRATEGY:-mirrored}" "${ARGS[@]}"
