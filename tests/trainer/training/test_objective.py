"""The sums are those of a plain computation, and split without a rest."""

import numpy as np
import pytest
import tensorflow as tf

from tests.trainer.training import conftest as tiny
from trainer.training import objective

MASK_ID = tiny.MASK_ID


@pytest.fixture
def batch():
    """Masked, kept and random slots, and slots that nobody predicts."""
    batch = tiny.batch_of(2)
    used = np.argwhere(batch["mask_weights"])
    for number, (row, place) in enumerate(used):
        slot = batch["mask_positions"][row, place]
        label = batch["mask_labels"][row, place]
        other = 5 + (label - 4) % 45
        batch["token_ids"][row, slot] = (MASK_ID, label, other)[number % 3]
    return batch


@pytest.fixture
def logits(batch):
    random = np.random.default_rng(5)
    shape = [*batch["mask_labels"].shape, tiny.VOCABULARY]
    logits = random.normal(0, 3, shape).astype(np.float32)
    # Some are right.
    logits[:4] += 20 * np.eye(tiny.VOCABULARY)[batch["mask_labels"][:4]]
    return logits


def as_predictions(logits):
    """What is projected, and how, so that these logits come out."""
    hidden = tf.constant(logits.reshape([-1, tiny.VOCABULARY]))
    return hidden, tf.eye(tiny.VOCABULARY), tf.zeros([tiny.VOCABULARY])


def by_hand(logits, batch):
    """One loop over the slots, in float64."""
    sums = dict.fromkeys(("loss", "weight", "correct"), 0.0)
    kinds = {
        f"{n}{k}": 0.0 for n in sums for k in ("_masked", "_kept", "_random")
    }
    sums |= kinds
    for row, place in np.argwhere(batch["mask_weights"]):
        scores = logits[row, place].astype(np.float64)
        label = batch["mask_labels"][row, place]
        shown = batch["token_ids"][row, batch["mask_positions"][row, place]]
        kind = {MASK_ID: "_masked", label: "_kept"}.get(shown, "_random")
        for suffix in ("", kind):
            sums[f"loss{suffix}"] += (
                np.log(np.exp(scores).sum()) - scores[label]
            )
            sums[f"weight{suffix}"] += 1
            sums[f"correct{suffix}"] += scores.argmax() == label
    sums["tokens"] = (batch["segment_ids"] > 0).sum()
    return sums


def test_sums_are_the_plain_ones_and_those_of_the_kinds(batch, logits):
    expected = by_hand(logits, batch)
    sums = objective.masked_lm(as_predictions(logits), batch)
    kinds = objective.masked_lm_by_kind(
        as_predictions(logits), batch, mask_id=MASK_ID
    )
    assert set(sums) == set(objective.SUMS)
    assert kinds.keys() == expected.keys()
    for name, value in [*sums.items(), *kinds.items()]:
        assert value.shape == () and value.dtype == tf.float32
        np.testing.assert_allclose(value, expected[name], rtol=1e-6)
    assert 0 < sums["correct"] < sums["weight"]
    # A mask that is right counts once.
    batch["mask_labels"][:] = MASK_ID
    kinds = objective.masked_lm_by_kind(
        as_predictions(logits), batch, mask_id=MASK_ID
    )
    assert kinds["weight_kept"] == 0
    parts = [kinds[f"weight_{k}"] for k in ("masked", "kept", "random")]
    assert sum(parts) == kinds["weight"] == sum(tiny.COUNTS)


def test_means_divide_by_their_own_weight():
    sums = {"loss": 6.0, "weight": 4.0, "correct": 1.0, "tokens": 9.0}
    kinds = {"loss_kept": 3.0, "weight_kept": 2.0, "correct_kept": 2.0}
    never = {"loss_random": 0.0, "weight_random": 0.0, "correct_random": 0.0}
    assert objective.means({**sums, **kinds, **never}) == {
        "loss": 1.5,
        "accuracy": 0.25,
        "loss_kept": 1.5,
        "accuracy_kept": 1.0,
    }
    assert objective.means({"loss": 0.0, "weight": 0.0, "correct": 0.0}) == {}


@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_document_of_weight_two_counts_as_two(num_classes):
    random = np.random.default_rng(5)
    labels = np.arange(num_classes)
    logits = random.normal(size=[num_classes, num_classes])
    given = logits if num_classes > 2 else logits[:, 1:] - logits[:, :1]

    def sums(often, class_weights):
        places = np.repeat(labels, often)
        return objective.classification(
            tf.constant(given[places][np.newaxis], tf.float32),
            {
                "labels": tf.constant(labels[places][np.newaxis], tf.int32),
                "label_weights": tf.ones([1, len(places)]),
                "segment_ids": tf.ones([1, 3], tf.int32),
            },
            class_weights,
        )

    twice = np.where(labels == 1, 2, 1)
    found = sums(1, twice.astype(np.float32))
    for name, expected in sums(twice, np.ones(num_classes, np.float32)).items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5)


@pytest.mark.parametrize("num_classes", [2, 4])
def test_classification_by_hand(num_classes):
    random = np.random.default_rng(3)
    rows, documents = 3, 4
    labels = random.integers(0, num_classes, [rows, documents])
    weights = random.integers(0, 2, [rows, documents]).astype(np.float32)
    logits = random.normal(size=[rows, documents, num_classes])
    given = logits if num_classes > 2 else logits[..., 1:] - logits[..., :1]
    sums = objective.classification(
        tf.constant(given, tf.float32),
        {
            "labels": tf.constant(labels, tf.int32),
            "label_weights": tf.constant(weights),
            "segment_ids": tf.constant([[1, 2, 0]]),
        },
        np.ones(num_classes, np.float32),
    )
    powers = np.exp(logits)
    shares = powers / powers.sum(-1, keepdims=True)
    right = np.take_along_axis(shares, labels[..., None], -1)[..., 0]
    best = logits.argmax(-1) == labels
    assert set(sums) == set(objective.SUMS)
    np.testing.assert_allclose(
        sums["loss"], -(np.log(right) * weights).sum(), rtol=1e-5
    )
    assert float(sums["correct"]) == (best * weights).sum()
    assert float(sums["weight"]) == weights.sum()
    assert float(sums["tokens"]) == 2


def test_several_labels_by_hand():
    random = np.random.default_rng(4)
    labels = random.random([3, 4, 5]) < 0.4
    labels[0, 0] = False  # A document of no class.
    logits = random.normal(size=labels.shape) + 3 * (labels - 0.5)
    weights = random.integers(0, 2, [3, 4]).astype(np.float32)
    sums = objective.classification(
        tf.constant(logits, tf.float32),
        {
            "labels": tf.constant(labels),
            "label_weights": tf.constant(weights),
            "segment_ids": tf.constant([[1, 2, 0]]),
        },
        np.ones(5, np.float32),
    )
    shares = 1 / (1 + np.exp(-logits))
    losses = -np.log(np.where(labels, shares, 1 - shares)).sum(axis=-1)
    right = ((shares >= 0.5) == labels).all(axis=-1)
    assert 0 < right.sum() < right.size
    np.testing.assert_allclose(
        sums["loss"], (losses * weights).sum(), rtol=1e-5
    )
    assert float(sums["correct"]) == (right * weights).sum()
    assert float(sums["weight"]) == weights.sum()
