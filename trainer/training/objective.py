"""Sums, not means: what a batch adds to the loss and to the metrics.

Every value is float32 []: summed over slots, micro-batches, replicas and
steps, and divided once, by the global `weight`. B rows, P predictions,
D width, V vocabulary, S documents a row, C classes.
"""

import numpy as np
import tensorflow as tf

from trainer.training import cross_entropy

Sums = dict[str, tf.Tensor]
# What is projected to logits, how, and with which bias: hidden [B * P, D] in
# the compute dtype, kernel float32 [V, D], bias float32 [V].
Predictions = tuple[tf.Tensor, tf.Tensor, tf.Tensor]
SUMS = ("loss", "weight", "correct", "tokens")


def masked_lm(
    predictions: Predictions,
    batch: dict[str, tf.Tensor],
    *,
    rare_rates: np.ndarray | None = None,
) -> Sums:
    """Sums of a masked-LM batch; gradients flow through `loss`.

    Args:
      predictions: of the model, for the entries of the batch.
      batch: `mask_labels`, `mask_weights` [B, P] and `segment_ids` [B, L].
      rare_rates: float32 [V - K], for a softmax in two levels; None = one.

    Returns:
      loss: cross-entropy in nats; weight: predicted slots; correct: those
      whose best guess is right; tokens: slots that are not padding.
    """
    weights = tf.reshape(batch["mask_weights"], [-1])  # [B * P]
    if rare_rates is None:
        losses = _losses(predictions, batch, trains=True)
    else:
        losses = cross_entropy.two_level_cross_entropy(
            *predictions,
            labels=tf.reshape(batch["mask_labels"], [-1]),
            weights=weights,
            rare_rates=tf.constant(rare_rates),
        )
    return {
        "loss": losses.total,
        "weight": tf.reduce_sum(weights),
        "correct": tf.reduce_sum(losses.correct * weights),
        "tokens": _num_tokens(batch),
    }


def masked_lm_by_kind(
    predictions: Predictions, batch: dict[str, tf.Tensor], *, mask_id: int
) -> Sums:
    """The same, and split by what stands in the slot.

    `loss_masked`, `weight_masked`, `correct_masked`: the mask token is there;
    `..._kept`: the right token is; `..._random`: another one.
    """
    labels = batch["mask_labels"]
    weights = tf.reshape(batch["mask_weights"], [-1])  # [B * P]
    losses = _losses(predictions, batch, trains=False)
    shown = tf.gather(batch["token_ids"], batch["mask_positions"], batch_dims=1)
    masked = shown == mask_id
    kept = (shown == labels) & ~masked
    kinds = {
        "": tf.ones_like(masked),
        "_masked": masked,
        "_kept": kept,
        "_random": ~(masked | kept),
    }
    sums = {"tokens": _num_tokens(batch)}
    for name, chosen in kinds.items():
        part = weights * tf.reshape(tf.cast(chosen, tf.float32), [-1])
        sums[f"loss{name}"] = tf.reduce_sum(losses.each * part)
        sums[f"weight{name}"] = tf.reduce_sum(part)
        sums[f"correct{name}"] = tf.reduce_sum(losses.correct * part)
    return sums


def classification(
    logits: tf.Tensor,
    batch: dict[str, tf.Tensor],
    class_weights: np.ndarray,
) -> Sums:
    """Sums of a classification batch; gradients flow through `loss`.

    Args:
      logits: float32 [B, S, C], or [B, S, 1] where there are two classes.
      batch: `labels`, `label_weights` [B, S] and `segment_ids` [B, R];
        `labels` are bool [B, S, C] where a document may have several.
      class_weights: float32 [C], what a document counts in all sums but
        `tokens`; not used where it may have several.

    Returns:
      loss: cross-entropy in nats; weight: documents; correct: those whose
      best guess is right; tokens: slots that are not padding. Of several
      labels, the loss is the sum over the classes, not their mean: it is that
      of the document, as with one label, and no class counts less because
      there are others. Right is a document where all classes are, which is
      called exact match or subset accuracy.
    """
    labels, weights = batch["labels"], batch["label_weights"]
    if labels.dtype == tf.bool:
        by_class = tf.nn.sigmoid_cross_entropy_with_logits(
            labels=tf.cast(labels, tf.float32), logits=logits
        )
        losses = tf.reduce_sum(by_class, axis=-1)
        is_right = tf.reduce_all((logits >= 0) == labels, axis=-1)
    elif logits.shape[-1] == 1:
        logit = logits[..., 0]
        losses = tf.nn.sigmoid_cross_entropy_with_logits(
            labels=tf.cast(labels, tf.float32), logits=logit
        )
        is_right = tf.cast(logit > 0, tf.int32) == labels
    else:
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(
            labels=labels, logits=logits
        )
        best = tf.argmax(logits, axis=-1, output_type=tf.int32)
        is_right = best == labels
    if labels.dtype != tf.bool:
        weights *= tf.gather(class_weights, labels)
    return {
        "loss": tf.reduce_sum(losses * weights),
        "weight": tf.reduce_sum(weights),
        "correct": tf.reduce_sum(tf.cast(is_right, tf.float32) * weights),
        "tokens": _num_tokens(batch),
    }


def means(sums: dict[str, float]) -> dict[str, float]:
    """`loss` and `accuracy` (with their kinds) of sums over many batches.

    A kind that never occurred is left out.
    """
    result = {}
    for name, weight in sums.items():
        if name.startswith("weight") and weight:
            kind = name.removeprefix("weight")
            result[f"loss{kind}"] = sums[f"loss{kind}"] / weight
            result[f"accuracy{kind}"] = sums[f"correct{kind}"] / weight
    return result


def _losses(
    predictions: Predictions, batch: dict[str, tf.Tensor], *, trains: bool
) -> cross_entropy.Losses:
    return cross_entropy.cross_entropy(
        *predictions,
        labels=tf.reshape(batch["mask_labels"], [-1]),
        weights=tf.reshape(batch["mask_weights"], [-1]),
        trains=trains,
    )


def _num_tokens(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(batch["segment_ids"] > 0, tf.float32))
