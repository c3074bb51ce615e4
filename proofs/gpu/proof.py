"""A part of the proof: the runs that it starts, and what it has found."""

import itertools
import json
import os
import pathlib
import random
import subprocess
import sys
from typing import Any

from trainer.training import metrics

# The sample run, short; its precision and its layout vary.
SAMPLE = (
    "--config=sample",
    "--mode=pretrain",
    "--config.train.log_every=5",
    "--config.optimizer.schedule=constant",
    "--config.train.steps_per_call=5",
)


class Proof:
    """Where one part works, and what it has found.

    Attributes:
      out: the folder of all parts.
      part: its name.
      dry: whether sizes are small.
    """

    def __init__(self, out: pathlib.Path, part: str, *, dry: bool) -> None:
        self.out, self.part, self.dry = out, part, dry

    def record(self, what: str, figure: Any, required: str, good: bool) -> None:
        """Appends a figure and what is required of it."""
        row = {"part": self.part, "what": what, "figure": figure}
        row |= {"required": required, "good": bool(good)}
        with open(self.out / "results.jsonl", "a") as file:
            file.write(json.dumps(row) + "\n")

    def found(self) -> list[dict[str, Any]]:
        """All figures so far, of every part."""
        path = self.out / "results.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [json.loads(line) for line in lines]

    def text(self) -> pathlib.Path:
        """Made-up documents whose words are about as frequent as in English."""
        path = self.out / "text.txt"
        if not path.exists():
            draw = random.Random(0)
            number, length = (300, 40) if self.dry else (20_000, 240)
            words = [f"w{i}" for i in range(60_000)]
            weights = [
                *itertools.accumulate(1 / (i + 3) for i in range(60_000))
            ]
            path.write_text(
                "".join(
                    " ".join(draw.choices(words, cum_weights=weights, k=length))
                    + "\n"
                    for _ in range(number)
                )
            )
        return path

    def start(self, *flags: str, **environment: str) -> subprocess.Popen[str]:
        """Cloze, started with these flags."""
        prepared = f"--config.data.prepared_dir={self.out}/prepared"
        return subprocess.Popen(
            [sys.executable, "-m", "trainer.main", prepared, *flags],
            env={**os.environ, **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def start_sample(
        self, name: str, *flags: str, **environment: str
    ) -> subprocess.Popen[str]:
        """The sample run in a workdir of that name; one device by default."""
        workdir = f"--workdir={self.workdir(name)}"
        layout = "--strategy=one_device"
        return self.start(*SAMPLE, workdir, layout, *flags, **environment)

    def workdir(self, name: str) -> pathlib.Path:
        """Of a sample run."""
        return self.out / self.part / name

    def losses(self, name: str) -> dict[tuple[int, str], float]:
        """Every loss that a sample run has logged."""
        return {
            (event["step"], key): event[key]
            for event in metrics.read(self.workdir(name), "pretrain")
            for key in ("loss", "validation_loss")
            if key in event
        }

    def compare(self, what: str, one: str, other: str, limit: float) -> None:
        """Records the largest relative difference of two sample runs."""
        mine, theirs = self.losses(one), self.losses(other)
        both = mine.keys() & theirs.keys()
        apart = max(abs(mine[key] / theirs[key] - 1) for key in both)
        self.record(what, f"{apart:.1e}", f"≤ {limit:.0e}", apart <= limit)


def wait(*processes: subprocess.Popen[str]) -> None:
    """Waits for all of them; raises RuntimeError if one has failed."""
    for process in processes:
        _, err = process.communicate()
        if process.returncode:
            last = (err.strip().splitlines() or ["no message"])[-1]
            raise RuntimeError(f"exit code {process.returncode}: {last}")
