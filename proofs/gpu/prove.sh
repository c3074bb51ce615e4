#!/usr/bin/env bash
# Settles in nine minutes what one NVIDIA GPU can settle: docs/gpu.md.
#
#   proofs/gpu/prove.sh [--dry] [--out=runs/gpu] [--parts=machine,steps]
#
# Uses $PYTHON, else .venv/bin/python (`make EXTRA=gpu run` makes it).
set -euo pipefail

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
exec "${PYTHON:-.venv/bin/python}" -m proofs.gpu.prove "$@"
