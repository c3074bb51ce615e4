"""Tests of configs/automatic.py."""

import dataclasses

import pytest

from configs import automatic, overrides, schema


def auto(**finetune):
    config = overrides.load_config(
        "configs/default.py",
        changes={"config.data.source": "text", "config.data.path": "x"},
    )
    return dataclasses.replace(
        config, finetune=dataclasses.replace(config.finetune, **finetune)
    )


@pytest.mark.parametrize(
    ("lengths", "slots", "pieces", "rows"),
    [
        ((12, 25, 35), 64, 1, 8),  # Questions to a bank.
        ((12, 65, 129), 128, 2, 2),
        ((12, 65, 128), 128, 1, 4),
        ((230, 580, 890), 256, 4, 8),  # Film reviews.
        ((9_000, 20_000, 50_000), 256, 4, 32),
        ((0, 0, 0), 64, 1, 1),
    ],
)
def test_shapes_fit_the_documents(lengths, slots, pieces, rows):
    config = auto()
    assert automatic.needs_lengths(config)
    found = automatic.fitted(config, automatic.Lengths(*lengths))
    assert found.data.sequence_length == slots
    assert found.finetune.pieces_per_row == pieces
    assert found.finetune.global_batch_size == rows
    assert not automatic.needs_lengths(found)


def test_what_is_given_is_kept():
    config = auto(pieces_per_row=3, global_batch_size=5)
    config = dataclasses.replace(
        config, data=dataclasses.replace(config.data, sequence_length=32)
    )
    assert automatic.fitted(config, automatic.TYPICAL) == config
    assert not automatic.needs_lengths(schema.Config())


@pytest.mark.parametrize(
    ("steps_per_epoch", "pretraining", "finetuning"),
    [
        (1, 1_000, 30),
        (10, 1_000, 300),
        (20, 2_000, 600),
        (334, 3_000, 1_670),
        (1_001, 3_003, 3_003),
        (2_666, 4_000, 7_998),
        (2_667, 4_000, 5_334),
        (9_000, 9_000, 9_000),
    ],
)
def test_there_are_enough_steps(steps_per_epoch, pretraining, finetuning):
    assert automatic.pretraining_steps(steps_per_epoch) == pretraining
    assert automatic.finetuning_steps(steps_per_epoch) == finetuning


@pytest.mark.parametrize(
    ("decay", "num_steps", "expected"),
    [(0.0, 9, 0.0), (0.5, 9, 0.5), (-1.0, 9, 0.9), (-1.0, 2_000, 0.99)],
)
def test_averages_fit_the_number_of_steps(decay, num_steps, expected):
    finetune = schema.FinetuneConfig(average_decay=decay)
    found = automatic.average_decay(finetune, num_steps)
    assert found == pytest.approx(expected)
