"""BERT-base (12 layers of 768, Devlin et al., 2018), 512 slots a row.

    python -m trainer.main --config=configs/bert_base.py \
        --config.data.source=text --config.data.path='corpus/*.txt.gz'

For accelerators. Everything else as in bert_small.py.
"""

import ml_collections

from configs import bert_small


def get_config() -> ml_collections.ConfigDict:
    """See the module."""
    config = bert_small.get_config()
    config.data.sequence_length = 512
    config.model.num_layers = 12
    config.model.hidden_size = 768
    config.model.num_heads = 12
    config.model.intermediate_size = 3_072
    config.optimizer.learning_rate = 2e-4
    config.optimizer.warmup_steps = 10_000
    config.train.global_batch_size = 256
    config.train.num_steps = 500_000
    config.checkpoint.every_steps = 1_000
    return config
