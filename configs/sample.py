"""The sample run: a small encoder on a corpus that the project makes itself.

Shows:    that everything works, from raw text to an evaluated classifier.
Command:  make run        (or: python -m trainer.main)
Data:     `sample`, 12,000 generated film reviews; no network.
Machine:  two laptop cores.
Time:     4 to 5 minutes.
Expect:   masked-LM validation loss near 1.3 nats (guessing by frequency: 5.4),
          99 to 100 % of the test reviews classified as they should be.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """Short rows, two epochs, float32 on every device."""
    config = default.get_config()
    config.data.source = "sample"
    config.data.sequence_length = 128
    config.optimizer.warmup_steps = 100
    config.train.num_epochs = 2
    config.finetune.num_epochs = 1
    config.finetune.global_batch_size = 8
    config.finetune.pieces_per_row = 4
    # Not "auto", so that machines differ by rounding alone.
    config.train.precision = "float32"
    config.evaluation.sentences = (
        "i have watched this [MASK] and it was awesome",
        "the [MASK] was terrible and i fell asleep",
    )
    return config
