"""Settles in nine minutes what one NVIDIA GPU can settle: docs/gpu.md.

    python -m proofs.gpu.prove [--dry] [--out=runs/gpu] [--parts=machine,steps]

Each part runs in a process of its own with a time limit, and appends every
figure to `<out>/results.jsonl` as soon as it is there; `<out>/results.md` is a
table of them. A part that hangs, or a machine that is taken away, costs little.
`--dry` does the same with small sizes, on whatever device there is.
"""

import argparse
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from proofs.gpu import parts
from proofs.gpu.proof import Proof


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The figures in Markdown."""
    yield "| part | what | figure | required | |"
    yield "|---|---|---|---|---|"
    for row in rows:
        cells = (row["part"], row["what"], row["figure"], row["required"])
        mark = "" if row["good"] else "**FAILED**"
        yield f"| {' | '.join(map(str, cells))} | {mark} |"


def main() -> int:
    """Runs all parts; 1 if something is not as required."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--out", type=pathlib.Path, default="runs/gpu")
    parser.add_argument("--parts", default=",".join(parts.PARTS))
    parser.add_argument("--part", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.part:
        parts.PARTS[flags.part][1](Proof(flags.out, flags.part, dry=flags.dry))
        return 0
    flags.out.mkdir(parents=True, exist_ok=True)
    for part in flags.parts.split(","):
        limit, _ = parts.PARTS[part]
        proof = Proof(flags.out, part, dry=flags.dry)
        command = [sys.executable, "-m", "proofs.gpu.prove", f"--part={part}"]
        command += [f"--out={flags.out}", *["--dry"] * flags.dry]
        shutil.rmtree(flags.out / part, ignore_errors=True)
        # With all that it starts, because a GPU has one owner.
        process = subprocess.Popen(command, start_new_session=True)
        start = time.monotonic()
        try:
            code = process.wait(None if flags.dry else limit)
            problem = f"exit code {code}" if code else ""
        except subprocess.TimeoutExpired:
            problem = f"not done after {limit} s"
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        seconds = time.monotonic() - start
        proof.record(
            "seconds of the part", round(seconds), problem, not problem
        )
        lines = [*table(proof.found())]
        (flags.out / "results.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines), flush=True)
    return int(not all(row["good"] for row in proof.found()))


if __name__ == "__main__":
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    sys.exit(main())
