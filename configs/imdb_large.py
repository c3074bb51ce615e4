"""IMDB reviews, the large recipe: 4 layers of 512, ten epochs of pretraining.

    python -m trainer.main --config=configs/imdb_large.py

The text and its splits are those of imdb.py. On two cores it takes days, in
pieces: the same command goes on where the last one was stopped. Nobody has run
it to its end yet.
"""

import ml_collections

from configs import imdb


def get_config() -> ml_collections.ConfigDict:
    """See the module."""
    config = imdb.get_config()
    config.model.num_layers = 4
    config.model.hidden_size = 512
    config.model.num_heads = 8
    config.model.intermediate_size = 2_048
    config.model.dropout = 0.1
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 1_000
    config.optimizer.weight_decay = 0.05
    config.train.num_steps = 0
    config.train.num_epochs = 10
    config.train.global_batch_size = 64
    config.finetune.learning_rate = 3e-4
    config.finetune.self_training_rounds = 1
    return config
