"""BERT-small (4 layers of 512, Turc et al., 2019) on your own text.

    python -m trainer.main --config=configs/bert_small.py \
        --config.data.source=text --config.data.path='reviews/*.txt'

BERT's architecture, so that the encoder maps one to one to KerasHub's
BertBackbone and to Hugging Face's BertForMaskedLM. Without a path it trains
on the sample corpus, to try it out.
"""

import ml_collections

from configs import schema


def get_config() -> ml_collections.ConfigDict:
    """See the module."""
    config = schema.defaults()
    config.tokenizer.kind = "wordpiece"
    config.tokenizer.vocabulary_size = 30_522
    config.masking.policy = "whole_word"
    config.model.num_layers = 4
    config.model.hidden_size = 512
    config.model.num_heads = 8
    config.model.intermediate_size = 2_048
    # BERT's own code and KerasHub's compute it so.
    config.model.activation = "gelu_tanh"
    config.model.normalization = "post"
    config.model.embedding_norm = True
    config.model.token_types = True
    config.model.dropout = 0.1
    config.model.attention_dropout = 0.1
    config.model.layer_norm_epsilon = 1e-12
    config.optimizer.learning_rate = 5e-4
    config.optimizer.warmup_steps = 1_000
    config.optimizer.beta_2 = 0.999
    config.train.global_batch_size = 128
    config.train.num_steps = 100_000
    return config
