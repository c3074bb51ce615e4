"""The sections on what a run shows and leaves behind; see `sections`."""

import dataclasses

from configs import checks


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationConfig:
    """Validation while training."""

    every_steps: int = 0  # 0 = at the end of every epoch.
    # Filled in at the end of every epoch, 20 times a run at most; () = two of
    # the validation text with a word hidden.
    sentences: tuple[str, ...] = ()
    top_k: int = 5  # Fill-ins shown for every [MASK].
    control: str = ""  # Evaluated workdir to compare with, text by text.

    def __post_init__(self) -> None:
        checks.at_least("evaluation.every_steps", self.every_steps, 0)
        checks.at_least("evaluation.top_k", self.top_k, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """What is kept, and what a resumed run may change."""

    every_steps: int = 500  # Between two of them.
    keep_last: int = 3  # Besides the best.
    best_by: str = "loss"  # loss | accuracy; pretraining goes by loss.
    allow_changed: bool = False  # Resume with another optimizer section.

    def __post_init__(self) -> None:
        checks.all_at_least(1, "checkpoint", self, "every_steps keep_last")
        checks.choice("checkpoint.best_by", self.best_by, ("loss", "accuracy"))


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """What the exported model answers."""

    max_masks: int = 8  # M, masks of one text that are filled in.
    top_k: int = 5  # K, fill-ins for each.

    def __post_init__(self) -> None:
        checks.all_at_least(1, "export", self, "max_masks top_k")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """What `--mode=predict` reads and asks."""

    input: str = ""  # A file with one text a line; "" = standard input.
    export_dir: str = ""  # The exported model; "" = <workdir>/export.
    batch_size: int = 64  # Lines answered at once.
    explain: bool = False  # Say which words speak for a class, which against.

    def __post_init__(self) -> None:
        checks.at_least("predict.batch_size", self.batch_size, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Where `--mode=serve` answers, and what a request may hold."""

    host: str = "127.0.0.1"  # "0.0.0.0" answers other machines, too.
    port: int = 8000  # 0 = any that is free.
    max_bytes: int = 10_000_000  # Of the body of a request.
    max_texts: int = 1_000  # Of a request.
    max_characters: int = 100_000  # Of a text.
    neighbours: int = 0  # Training documents most like a text, to be shown.

    def __post_init__(self) -> None:
        checks.at_least("serve.neighbours", self.neighbours, 0)
        checks.require(
            0 <= self.port < 2**16,
            f"serve.port={self.port} must lie between 0 and 65535.",
        )
        checks.all_at_least(
            1, "serve", self, "max_bytes max_texts max_characters"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """What `--mode=inspect` shows."""

    step: int = 0  # The first.
    num_steps: int = 1  # How many steps.
    num_rows: int = 2  # Rows shown as text for every step.

    def __post_init__(self) -> None:
        checks.all_at_least(0, "inspect", self, "step num_rows")
        checks.at_least("inspect.num_steps", self.num_steps, 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BenchmarkConfig:
    """What `--mode=benchmark` measures."""

    # step: a training step; input: prepared rows to masked batches; serving:
    # the export's answers.
    what: str = "step"
    # Time the step of the Keras example as well, alternating with ours.
    reference: bool = False
    num_rounds: int = 10  # Timed rounds, after a warm-up round.

    def __post_init__(self) -> None:
        checks.choice("benchmark.what", self.what, ("step", "input", "serving"))
        checks.require(
            not self.reference or self.what == "step",
            "benchmark.reference=True needs benchmark.what=step, but it is"
            f" {self.what}; leave the reference out.",
        )
        checks.at_least("benchmark.num_rounds", self.num_rounds, 3)
