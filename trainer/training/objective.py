"""Sums, not means: what a batch adds to the loss and to the metrics.

Every value is float32 []: summed over slots, micro-batches, replicas and
steps, and divided once, by the global `weight`. B rows, P predictions,
V vocabulary.
"""

import tensorflow as tf

Sums = dict[str, tf.Tensor]
MASKED_LM_SUMS = ("loss", "weight", "correct", "tokens")


def masked_lm(logits: tf.Tensor, batch: dict[str, tf.Tensor]) -> Sums:
    """Sums of a masked-LM batch.

    Args:
      logits: float32 [B, P, V].
      batch: `mask_labels`, `mask_weights` [B, P] and `segment_ids` [B, L].

    Returns:
      loss: cross-entropy in nats; weight: predicted slots; correct: those
      whose best guess is right; tokens: slots that are not padding.
    """
    labels, weights = batch["mask_labels"], batch["mask_weights"]
    return {
        "loss": tf.reduce_sum(_cross_entropy(labels, logits) * weights),
        "weight": tf.reduce_sum(weights),
        "correct": tf.reduce_sum(_correct(labels, logits) * weights),
        "tokens": _num_tokens(batch),
    }


def masked_lm_by_kind(
    logits: tf.Tensor, batch: dict[str, tf.Tensor], *, mask_id: int
) -> Sums:
    """The same, and split by what stands in the slot.

    `loss_masked`, `weight_masked`, `correct_masked`: the mask token is there;
    `..._kept`: the right token is; `..._random`: another one.
    """
    labels, weights = batch["mask_labels"], batch["mask_weights"]
    losses = _cross_entropy(labels, logits)
    correct = _correct(labels, logits)
    shown = tf.gather(batch["token_ids"], batch["mask_positions"], batch_dims=1)
    masked = shown == mask_id
    kept = shown == labels
    kinds = {
        "": tf.ones_like(masked),
        "_masked": masked,
        "_kept": kept,
        "_random": ~(masked | kept),
    }
    sums = {"tokens": _num_tokens(batch)}
    for name, chosen in kinds.items():
        part = weights * tf.cast(chosen, tf.float32)
        sums[f"loss{name}"] = tf.reduce_sum(losses * part)
        sums[f"weight{name}"] = tf.reduce_sum(part)
        sums[f"correct{name}"] = tf.reduce_sum(correct * part)
    return sums


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


def _cross_entropy(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def _correct(labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
    best = tf.argmax(logits, axis=-1, output_type=tf.int32)
    return tf.cast(best == labels, tf.float32)


def _num_tokens(batch: dict[str, tf.Tensor]) -> tf.Tensor:
    return tf.reduce_sum(tf.cast(batch["segment_ids"] > 0, tf.float32))
