"""IMDB reviews, our recipe: packed rows, tied pre-norm encoder, rotary.

    python -m trainer.main --config=configs/imdb.py

Text: the labelled training split (less validation) and all 50,000
unsupervised reviews; the test split is never read. Validation is on the same
reviews as in imdb_notebook.py: one review a row, cut at 256, frozen 15 %
masks. The classifier reads reviews of up to 1,024 words whole.
"""

import ml_collections

from configs import default


def get_config() -> ml_collections.ConfigDict:
    """See the module."""
    config = default.get_config()
    config.data.source = "tfds"
    config.data.name = "imdb_reviews"
    config.data.unlabeled_split = "unsupervised"
    config.data.validation_packing = "document"
    config.data.sequence_length = 256
    config.tokenizer.max_documents = 50_000
    # As many real tokens as imdb_notebook.py sees: 2.6 epochs.
    config.train.num_steps = 5_600
    config.train.global_batch_size = 32
    config.finetune.num_epochs = 3
    config.finetune.global_batch_size = 8
    config.finetune.pieces_per_row = 4
    config.finetune.layer_decay = 0.8
    config.finetune.average_decay = 0.99
    config.evaluation.sentences = (
        "i have watched this [MASK] and it was awesome",
        "the [MASK] was terrible and i fell asleep",
        "the acting was [MASK] and the plot made no sense",
    )
    return config
