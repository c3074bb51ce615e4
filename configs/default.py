"""Any text, with or without labels: sizes and steps that fit it.

    python -m trainer.main --config.data.source=csv \
        --config.data.path=tickets.csv --config.data.label_field=team

This is what counts where no --config is given and the text is one's own. What
0 and -1 become is decided from the text (configs/automatic.py), said at the
start, and recorded in the workdir.
"""

import ml_collections

from configs import schema


def get_config() -> ml_collections.ConfigDict:
    """See the module."""
    config = schema.defaults()
    config.data.sequence_length = 0
    config.model.num_layers = 2
    config.model.positions = "rotary"
    config.optimizer.learning_rate = 2e-3
    config.optimizer.warmup_steps = 300
    config.train.num_epochs = 0
    config.train.full_softmax_rate = 0.1
    # With few documents of validation, losses follow the most confident ones.
    config.checkpoint.best_by = "accuracy"
    config.finetune.pieces_per_row = 0
    config.finetune.global_batch_size = 0
    config.finetune.num_epochs = 0
    config.finetune.average_decay = -1.0
    config.finetune.learning_rate = 1e-3
    config.finetune.dropout = 0.2
    config.finetune.word_dropout = 0.2
    return config
