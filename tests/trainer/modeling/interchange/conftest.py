"""A small BERT with weights drawn so that every one of them matters."""

import pytest
import tensorflow as tf

from configs import schema
from trainer import modeling
from trainer.modeling.interchange import bert

LENGTH = 10
VOCABULARY = (
    "[PAD] [MASK] [CLS] [UNK] [SEP] the film was good bad ##s ##ly . , é ß"
).split()


@pytest.fixture
def vocabulary():
    """Special tokens in another order than BERT's."""
    return list(VOCABULARY)


@pytest.fixture(scope="session")
def create():
    """A function: more model fields -> a `MaskedLM` with drawn weights."""

    def create(seed=0, **fields):
        config = schema.ModelConfig(
            **{
                "num_layers": 2,
                "hidden_size": 12,
                "num_heads": 3,
                "intermediate_size": 20,
                "activation": "gelu_tanh",
                "layer_norm_epsilon": 1e-12,
                "dropout": 0.1,
                "attention_dropout": 0.1,
                **bert.SHAPE,
                **fields,
            }
        )
        model = modeling.create_masked_lm(
            config, vocabulary_size=len(VOCABULARY), sequence_length=LENGTH
        )
        for number, variable in enumerate(model.variables):
            variable.assign(
                tf.random.stateless_normal(
                    variable.shape, [number, seed], 0, 0.5
                )
            )
        return model

    return create
