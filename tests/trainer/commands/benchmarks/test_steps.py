"""Tests of trainer/commands/benchmarks/steps.py."""

import numpy as np
import pytest

from trainer.commands.benchmarks import steps
from trainer.run import Run


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


def test_the_reference_reads_one_document_a_row(tiny, one_device):
    config = steps.with_documents(tiny())
    prepared = Run(config, workdir="", runtime=one_device).rows
    for batch in steps.first_batches(config, prepared):
        assert int(np.max(batch["segment_ids"])) == 1
