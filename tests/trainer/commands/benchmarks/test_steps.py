"""Tests of trainer/commands/benchmarks/steps.py."""

import numpy as np
import pytest

from trainer.commands import prepare
from trainer.commands.benchmarks import steps


def test_the_first_losses_of_step_and_reference_are_one(tiny, one_device):
    config = tiny({"data.packing": "document", "train.steps_per_call": 1})
    ours = steps.create_steps(config, one_device)
    theirs = steps.create_reference(config, one_device)
    done, _, sums = ours._call(*ours._arguments)
    loss = theirs._step(next(theirs._batches), theirs._zero)
    assert int(done) == 1
    np.testing.assert_allclose(sums["loss"] / sums["weight"], loss, rtol=1e-5)


def test_the_reference_has_one_device(tiny, devices):
    with pytest.raises(ValueError, match="2 replicas; use --strategy=one"):
        steps.create_reference(tiny(), devices(2))


@pytest.mark.parametrize("num_devices", [1, 2])
def test_batches_from_memory_are_repeated(tiny, devices, num_devices):
    trainee = steps.create_task(tiny(), devices(num_devices))
    several = trainee.strategy.experimental_local_results

    def rows(batches, number):
        return [
            np.concatenate(several(batch["token_ids"]))
            for batch, _ in zip(batches, range(number), strict=False)
        ]

    kept = rows(trainee.first_batches(3), 6)
    np.testing.assert_array_equal(kept[:3], rows(trainee.batches(0), 3))
    np.testing.assert_array_equal(kept[3:], kept[:3])
    assert (kept[0] != kept[1]).any()
    assert (kept[0] != kept[2]).any()


def test_the_reference_reads_one_document_a_row(tiny):
    config = steps.with_documents(tiny())
    prepared = prepare.open_prepared(config)
    for batch in steps.first_batches(config, prepared):
        assert int(np.max(batch["segment_ids"])) == 1


def test_tracing_computes_nothing(tiny, one_device):
    trainee = steps.create_task(tiny(), one_device)
    before = [variable.numpy() for variable in trainee.variables]
    call = steps.Steps(trainee, kept=True)
    call.trace()
    for variable, value in zip(trainee.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    call()
    changed = [
        (variable.numpy() != value).any()
        for variable, value in zip(trainee.variables, before, strict=True)
    ]
    assert any(changed)
