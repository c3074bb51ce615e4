"""A config: its sections, and the way from and to plain values.

A config file holds `get_config()`, which edits a copy of `defaults()`; the
command line edits that; `Config.from_config_dict` freezes and checks the
result before TensorFlow is imported.
"""

import dataclasses
import json
import math
import typing
from collections.abc import Iterator
from typing import Any, Self

import ml_collections

from configs import checks
from configs.data import DataConfig
from configs.outputs import (
    BenchmarkConfig,
    CheckpointConfig,
    EvaluationConfig,
    ExportConfig,
    InspectConfig,
    PredictConfig,
    ServeConfig,
)
from configs.sections import (
    FinetuneConfig,
    MaskingConfig,
    ModelConfig,
    OptimizerConfig,
    TokenizerConfig,
    TrainConfig,
)

__all__ = [
    "CHANGEABLE",
    "Config",
    "defaults",
    "BenchmarkConfig",
    "CheckpointConfig",
    "DataConfig",
    "EvaluationConfig",
    "ExportConfig",
    "FinetuneConfig",
    "InspectConfig",
    "MaskingConfig",
    "ModelConfig",
    "OptimizerConfig",
    "PredictConfig",
    "ServeConfig",
    "TokenizerConfig",
    "TrainConfig",
]


# What a knob decides: the kind of artifact whose id its value is part of. An
# entry for a section holds for all its fields that have no entry of their own.
# "" decides nothing that is kept: speed, places, lengths, what is shown. The
# content of text files and of `init_from` decides, not where they lie; and the
# near-duplicates that were found, not that they were looked for.
_DECIDES = {
    "seed": "encoder",
    "init_from": "",
    "data": "rows",
    "data.path": "",
    "data.test_path": "",
    "data.test_text_field": "",
    "data.test_label_field": "",
    # How files are read is, where it is set, part of what identifies the text.
    "data.label_names": "text",
    "data.label_kind": "text",
    "data.label_separator": "text",
    "data.separator": "text",
    "data.columns": "text",
    "data.validation_path": "",
    "data.unlabeled_path": "",
    "data.prepared_dir": "",
    "data.num_processes": "",
    "data.near_duplicates": "",
    "tokenizer": "rows",
    "masking": "encoder",
    "model": "encoder",
    "optimizer": "encoder",
    "train": "",
    "train.global_batch_size": "encoder",
    "finetune": "classifier",
    "finetune.packing": "labelled rows",
    "finetune.pieces_per_row": "labelled rows",
    "finetune.num_seeds": "",
    "finetune.self_training_rounds": "",
    "finetune.ngrams": "",
    "finetune.encoder": "",
    "finetune.class_weights": "n-grams",
    "finetune.min_precision": "export",
    "finetune.num_steps": "",
    "finetune.num_epochs": "",
    "finetune.patience": "",
    "evaluation": "",
    "evaluation.control": "evaluation",
    "checkpoint": "",
    "checkpoint.best_by": "classifier",
    "export": "export",
    "predict": "",
    "serve": "",
    "inspect": "",
    "benchmark": "",
}
# Of these, what a run may change when it goes on, with
# `checkpoint.allow_changed`: how it learns, not what.
CHANGEABLE = (
    "optimizer",
    "finetune.batch_documents",
    "finetune.dropout",
    "finetune.word_dropout",
    "finetune.learning_rate",
    "finetune.schedule",
    "finetune.warmup_rate",
    "finetune.weight_decay",
    "finetune.layer_decay",
    "finetune.average_decay",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """One run."""

    seed: int = 0  # Of weights, order, masks and dropout in pretraining.
    init_from: str = ""  # Workdir, KerasHub preset or Hugging Face folder.
    data: DataConfig = DataConfig()
    tokenizer: TokenizerConfig = TokenizerConfig()
    masking: MaskingConfig = MaskingConfig()
    model: ModelConfig = ModelConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    export: ExportConfig = ExportConfig()
    predict: PredictConfig = PredictConfig()
    serve: ServeConfig = ServeConfig()
    inspect: InspectConfig = InspectConfig()
    benchmark: BenchmarkConfig = BenchmarkConfig()

    def __post_init__(self) -> None:
        checks.require(
            0 <= self.seed < 2**31,
            f"seed={self.seed} must lie between 0 and 2147483647.",
        )
        for name in ("train", "finetune"):
            number = getattr(self, name).num_steps
            checks.require(
                not (self.train.minutes and number),
                f"train.minutes={self.train.minutes:g} decides how many steps"
                f" there are, but {name}.num_steps={number} is set, too; add"
                f" --config.{name}.num_steps=0, or leave train.minutes out.",
            )

    @property
    def num_predictions(self) -> int:
        """P, the prediction slots of a row: ceil(highest rate * L).

        Two more for whole words, as their number varies; but L at most.
        """
        rate = max(self.masking.highest_rate, self.masking.evaluation_rate)
        length = self.data.sequence_length
        # Rounded first, so that 0.15 * 20 = 3.0000000000000004 gives 3.
        number = max(1, math.ceil(round(rate * length, 6)))
        spare = 2 if self.masking.policy == "whole_word" else 0
        return min(number + spare, length)

    def deciding(self, *kinds: str) -> dict[str, Any]:
        """The knobs that decide artifacts of these kinds, by their full name.

        Config().deciding("export") -> {"export.max_masks": 8, ...}
        """
        return {
            name: value
            for name, value in flat(self.to_dict())
            if decides(name) in kinds
        }

    @classmethod
    def from_config_dict(cls, config: ml_collections.ConfigDict) -> Self:
        """The frozen, checked config; raises ValueError on a bad value."""
        return cls.from_dict(config.to_dict())

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The inverse of `to_dict`; raises ValueError on a bad value."""
        return typing.cast(Self, _build(cls, values))

    def changed(self, values: dict[str, Any]) -> Self:
        """The config with other values for some fields, by their full name.

        Config().changed({"train.num_steps": 10})
        """
        config = ml_collections.ConfigDict(self.to_dict())
        config.update_from_flattened_dict(values)
        return self.from_config_dict(config)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, JSON-ready; tuples become lists."""
        values: dict[str, Any] = json.loads(
            json.dumps(dataclasses.asdict(self))
        )
        return values


def decides(name: str) -> str:
    """The kind of artifact that a knob decides; "" = none that is kept.

    decides("masking.policy") -> "encoder"
    """
    section, _, _ = name.partition(".")
    return _DECIDES.get(name, _DECIDES[section])


def defaults() -> ml_collections.ConfigDict:
    """A mutable copy of every default, for config files to edit."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()))


def _build(cls: Any, values: dict[str, Any]) -> Any:
    types = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(types))
    checks.require(
        not unknown,
        f"Unknown config field(s) {', '.join(unknown)} in {cls.__name__};"
        f" known are {', '.join(types)}.",
    )
    return cls(
        **{
            name: _build(types[name], value)
            if dataclasses.is_dataclass(types[name])
            # JSON has no tuples.
            else (tuple(value) if isinstance(value, list) else value)
            for name, value in values.items()
        }
    )


def flat(values: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """("train.num_steps", 0) for {"train": {"num_steps": 0}}."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from ((f"{name}.{field}", v) for field, v in value.items())
        else:
            yield name, value
