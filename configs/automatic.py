"""What `auto` becomes: shapes that fit the text, and enough steps.

Everything here is a function of the config and of the text, so that a run
that goes on, and every worker of a cluster, arrives at the same numbers.
"""

import dataclasses
import math

from configs import schema

# Rows of L slots, the shortest that holds 95 % of the documents.
_ROW_LENGTHS = (64, 128, 256)
_MOST_PIECES = 4
# Pretraining: three epochs, but at least _LEAST_STEPS, because masked-LM
# validation loss on the 67,000 phrases of SST-2 is 5.3 after 1,000 steps and
# 3.7 after 3,000. Where these are more than MOST_EPOCHS, the text gets that
# many epochs, or _FEW_STEPS. From _MOST_STEPS on, one epoch is enough.
_FEW_STEPS, _LEAST_STEPS, _MOST_STEPS = 1_000, 3_000, 4_000
_PRETRAINING_EPOCHS = 3
# Fine-tuning: at least this many updates and epochs. Banking77 reaches 84 %
# after 750 updates and 90 % after 1,500. Where that is more than
# _MOST_FINETUNING_STEPS, there are fewer epochs, but one at least.
_FINETUNING_STEPS, _MOST_FINETUNING_STEPS = 1_500, 8_000
_FINETUNING_EPOCHS = 3
MOST_EPOCHS = {"pretrain": 100, "finetune": 30}


@dataclasses.dataclass(frozen=True)
class Lengths:
    """How many tokens documents have: the mean and two percentiles."""

    mean: float
    percentile_95: int
    percentile_99: int


# Of film reviews, for where there is no text to look at.
TYPICAL = Lengths(mean=230.0, percentile_95=580, percentile_99=890)


def needs_lengths(config: schema.Config) -> bool:
    """Whether `fitted` has anything to decide."""
    return 0 in (
        config.data.sequence_length,
        config.finetune.pieces_per_row,
        config.finetune.global_batch_size,
    )


def fitted(config: schema.Config, lengths: Lengths) -> schema.Config:
    """The config with L, pieces a row and fine-tuning batch decided."""
    length = config.data.sequence_length or next(
        (n for n in _ROW_LENGTHS if n >= lengths.percentile_95),
        _ROW_LENGTHS[-1],
    )
    pieces = config.finetune.pieces_per_row or min(
        _MOST_PIECES, max(1, math.ceil(lengths.percentile_99 / length))
    )
    slots = length * pieces
    documents_per_row = max(1.0, 0.95 * slots / max(1.0, lengths.mean))
    if config.finetune.packing == "document":
        documents_per_row = 1.0
    rows = max(1.0, config.finetune.batch_documents / documents_per_row)
    return dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, sequence_length=length),
        finetune=dataclasses.replace(
            config.finetune,
            pieces_per_row=pieces,
            # A power of two, so that it can be split among devices.
            global_batch_size=config.finetune.global_batch_size
            or 2 ** round(math.log2(rows)),
        ),
    )


def pretraining_steps(steps_per_epoch: int) -> int:
    """How many steps, where neither steps nor epochs are given."""
    often = MOST_EPOCHS["pretrain"] * steps_per_epoch
    least = min(_LEAST_STEPS, max(_FEW_STEPS, often))
    wanted = max(least, _PRETRAINING_EPOCHS * steps_per_epoch)
    return min(wanted, max(_MOST_STEPS, steps_per_epoch))


def finetuning_steps(steps_per_epoch: int) -> int:
    """How many steps of whole epochs, where `finetune.num_epochs` is 0."""
    wanted = math.ceil(_FINETUNING_STEPS / max(1, steps_per_epoch))
    affordable = max(1, _MOST_FINETUNING_STEPS // max(1, steps_per_epoch))
    epochs = min(
        MOST_EPOCHS["finetune"], affordable, max(_FINETUNING_EPOCHS, wanted)
    )
    return epochs * steps_per_epoch


def average_decay(finetune: schema.FinetuneConfig, num_steps: int) -> float:
    """As configured; for -1 an average over about a twentieth of the steps."""
    if finetune.average_decay != -1:
        return finetune.average_decay
    return 1 - 1 / min(1_000, max(10, num_steps // 20))
