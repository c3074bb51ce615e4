"""Tests of trainer/modeling/ngram_head.py."""

import numpy as np
import tensorflow as tf

from trainer import ngrams
from trainer.modeling import ngram_head

IS_SPECIAL = np.array([True, True, False, False])
FITTED = ngrams.NGrams(
    np.array([2, 3, 2 * 4 + 3], np.int64),
    np.array([1, 2, 3], np.float32),
    np.array([[0.5], [-1], [4]], np.float32),
    np.array([0.25], np.float32),
)


def test_it_answers_as_what_it_was_given_and_is_never_trained():
    head = ngram_head.NGramHead(3, 1, is_special=IS_SPECIAL)
    assert not head.trainable_variables and len(head.variables) == 4
    tokens = [tf.constant(x) for x in ([2, 3, 3], [0, 0, 1], [0, 0, 1])]
    np.testing.assert_array_equal(head(*tokens, num_documents=2), [[0], [0]])
    head.assign(FITTED)
    expected = [[(0.5 - 1 + 4) / np.sqrt(14) + 0.25], [-1 / 2 + 0.25]]
    np.testing.assert_allclose(
        head(*tokens, num_documents=2), expected, rtol=1e-6
    )
    assert head.keys.dtype == "int64"
