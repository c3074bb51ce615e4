"""The Keras example "End-to-end Masked Language Modeling with BERT", on TFDS.

    python -m trainer.main --config=configs/imdb_notebook.py

Its shapes and its recipe: 30,000 words, one review a row cut at 256, one
post-norm layer that attends to padding, an untied head, Adam at 1e-3, batch
32, 15 % masked 80/10/10, 5 epochs of 1,563 steps; 7,842,352 parameters. The
classifier pools by maximum over all 256 slots: 5 epochs with the encoder
frozen, 5 without.

It departs in these points: masks are fresh in every epoch, their number is
exact, the most frequent word can be masked, and no test text is used: it
pretrains on the labelled training split (less validation) and the first
25,000 unsupervised reviews.
"""

import ml_collections

from configs import schema


def get_config() -> ml_collections.ConfigDict:
    """See the module."""
    config = schema.defaults()
    config.data.source = "tfds"
    config.data.name = "imdb_reviews"
    config.data.unlabeled_split = "unsupervised[:25000]"
    config.data.packing = "document"
    config.data.validation_packing = "document"
    config.tokenizer.kind = "word"
    config.model.num_layers = 1
    config.model.num_heads = 8
    config.model.intermediate_size = 128
    config.model.activation = "relu"
    config.model.normalization = "post"
    config.model.dropout = 0.1
    config.model.initializer_range = 0.0
    config.model.tie_embeddings = False
    config.model.head_transform = False
    config.model.attend_padding = True
    config.optimizer.schedule = "constant"
    config.optimizer.weight_decay = 0.0
    config.optimizer.beta_2 = 0.999
    config.optimizer.epsilon = 1e-7
    config.optimizer.clip_norm = 0.0
    config.train.num_epochs = 5
    config.train.steps_per_epoch = 1_563
    config.finetune.ngrams = False
    config.finetune.frozen_epochs = 5
    config.finetune.num_epochs = 5
    config.finetune.global_batch_size = 32
    config.finetune.packing = "document"
    config.finetune.pieces_per_row = 1
    config.finetune.pooling = "max"
    config.finetune.hidden_size = 64
    config.finetune.dropout = 0.0
    config.finetune.learning_rate = 1e-3
    config.finetune.schedule = "constant"
    config.finetune.warmup_rate = 0.0
    config.finetune.weight_decay = 0.0
    config.evaluation.sentences = (
        "i have watched this [MASK] and it was awesome",
        "the [MASK] was terrible and i fell asleep",
    )
    return config
