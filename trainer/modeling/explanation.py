"""Why a classifier answers as it does, word by word, inside a graph.

Explained are the log-odds of the likeliest class against the second, ln(p1 /
p2): the logit of the answer where there are two classes, else the difference of
two logits. They are linear in the logits, and a reader asks about them: why
this class, and not that one? Where a text may have several classes, it is the
logit of the likeliest.

n-grams are linear, so that their contributions are exact. For the encoder, a
slice contributes what the log-odds lose when it is hidden ("occlusion", Zeiler
and Fergus, "Visualizing and Understanding Convolutional Networks", 2014; of
words Li et al., "Understanding Neural Networks through Representation Erasure",
2016). These numbers do not add up, since words act together. Hidden tokens
become unknown ones, as with `finetune.word_dropout`: the classifier knows these
from text, but has never seen a mask in fine-tuning.

N texts, W slices in the longest of them, S slices of all, H that are hidden,
C classes, K logits.
"""

import numpy as np
import tensorflow as tf

from input_pipeline import strings
from trainer import ngrams
from trainer.modeling import classifier as classifiers
from trainer.modeling import text as text_models

# Slices of a text that are hidden from the encoder; each costs an answer.
MAX_HIDDEN = 100


def explain(
    model: text_models.TextClassifier, text: tf.Tensor
) -> dict[str, tf.Tensor]:
    """What speaks for the answer to raw strings [N], and what against it.

    Returns:
      `words`: string [N, W], the clean text in slices, see `Codec.slices`; ""
        behind the last one.
      `label`, `against`: string [N], the likeliest class and the second, or ""
        where a text may have several.
      `log_odds`: float32 [N], the sum of `bias`, a row of `ngrams`, and
        `encoder_log_odds`.
      `bias`: float32 [N], what no word contributes.
      `ngrams`: float32 [N, W], left out if the model has none; 0 for a slice
        that is in no known n-gram, or is not read.
      `encoder`: float32 [N, W], left out if the model has none; 0 for a slice
        that is unknown or not read, NaN for one that is not explained, behind
        the first `MAX_HIDDEN` others of its text.
      `encoder_log_odds`: float32 [N], of the whole text, likewise.
    """
    slices = model.codec.slices(strings.clean(text))
    by_slice = model.codec.document_ids(slices.values)  # [S, (tokens)]
    ids = slices.with_values(by_slice).merge_dims(1, 2)
    # The slice of every token, counted over all texts.
    origins = ids.with_values(tf.cast(by_slice.value_rowids(), tf.int32))
    most = model.max_pieces * model.room
    ids, origins = ids[:, :most], origins[:, :most]
    parts = {}
    if model.classifier is not None:
        parts["encoder"], changes = _hide(model, slices, ids, origins)
    if model.ngrams is not None:
        features = ngrams.features(
            model.ngrams,
            *model.ngram_tokens(ids),
            is_special=model.codec.is_special,
            num_documents=tf.cast(ids.nrows(), tf.int32),
        )
        parts["ngrams"] = ngrams.logits(model.ngrams, features)

    mixed = model.mixed([*parts.values()])
    rates = classifiers.probabilities(mixed, multilabel=model.multilabel)
    _, best = tf.math.top_k(rates, k=2)  # [N, 2]
    one_hot = best[:, :, tf.newaxis] == tf.range(rates.shape[1])
    # [N, K]; the first of two classes has no logit.
    directions = tf.cast(one_hot[:, 0], tf.float32)
    against = tf.gather(model.labels, best[:, 1])
    if model.multilabel:
        against = tf.zeros_like(against)  # "".
    else:
        directions -= tf.cast(one_hot[:, 1], tf.float32)
    directions = directions[:, -model.num_logits :]
    mixture = model.mixture
    if mixture is None:
        mixture = tf.constant([1.0] + [0.0] * model.num_logits)
    shares = dict(zip(parts, tf.unstack(mixture[: len(parts)]), strict=True))
    bias = mixture[len(parts) :]

    found = {
        "words": slices.to_tensor(""),
        "label": tf.gather(model.labels, best[:, 0]),
        "against": against,
        "log_odds": tf.reduce_sum(directions * mixed, axis=1),
    }
    if model.ngrams is not None:
        values = ngrams.contributions(
            model.ngrams, features, shares["ngrams"] * directions
        )
        values = tf.math.unsorted_segment_sum(
            values, origins.values, tf.size(slices.values)
        )
        found["ngrams"] = slices.with_values(values).to_tensor(0.0)
        bias += shares["ngrams"] * model.ngrams.bias
    if model.classifier is not None:
        scaled = shares["encoder"] * directions
        values = tf.gather(scaled, slices.value_rowids()) * changes
        values = tf.reduce_sum(values, axis=1)
        found["encoder"] = slices.with_values(values).to_tensor(0.0)
        found["encoder_log_odds"] = tf.reduce_sum(scaled * parts["encoder"], 1)
    found["bias"] = tf.reduce_sum(directions * bias, axis=1)
    return found


def _hide(
    model: text_models.TextClassifier,
    slices: tf.RaggedTensor,
    ids: tf.RaggedTensor,
    origins: tf.RaggedTensor,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Asks the encoder about the texts, and again without each slice.

    Args:
      model: with an encoder.
      slices: string [N, (slices)].
      ids: int32 [N, (tokens)], those that are read.
      origins: int32 [N, (tokens)], the slice of each, from 0 to S - 1.

    Returns:
      float32 [N, K], the logits, and float32 [S, K], what these lose if a slice
      is hidden.
    """
    unknown = model.codec.special.unknown
    number = tf.cast(ids.nrows(), tf.int32)
    is_known = tf.math.unsorted_segment_max(
        tf.cast(ids.values != unknown, tf.int32),
        origins.values,
        tf.size(slices.values),
    )  # [S]; the lowest integer where no token is read.
    is_known = is_known > 0
    before = tf.cumsum(tf.cast(is_known, tf.int32), exclusive=True)
    owners = slices.value_rowids()
    # One more, for texts without slices at the end.
    first = tf.gather(tf.pad(before, [[0, 1]]), slices.row_starts())
    is_early = before - tf.gather(first, owners) < MAX_HIDDEN
    hidden = tf.cast(tf.where(is_known & is_early)[:, 0], tf.int32)  # [H]
    owners = tf.gather(owners, hidden)
    copies, places = tf.gather(ids, owners), tf.gather(origins, owners)
    is_hidden = places.values == tf.repeat(hidden, copies.row_lengths())
    copies = copies.with_values(tf.where(is_hidden, unknown, copies.values))
    logits = model.encoder_logits(tf.concat([ids, copies], axis=0))
    logits, without = logits[:number], logits[number:]
    changes = tf.where(is_known, np.nan, 0.0)[:, tf.newaxis]
    return logits, tf.tensor_scatter_nd_update(
        tf.tile(changes, [1, model.num_logits]),
        hidden[:, tf.newaxis],
        tf.gather(logits, owners) - without,
    )
