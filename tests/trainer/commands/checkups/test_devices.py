"""Four healthy devices; planted faults: test_doctor.py."""

import types

import pytest

from configs import schema
from trainer.commands.checkups import check
from trainer.commands.checkups import devices as checkups


@pytest.fixture(name="case")
def _case(tiny, devices):
    return check.Case(tiny(), "", devices(4), "")


def test_four_devices_are_well(case):
    texts = {each.__name__: each(case) for each in checkups.CHECKS}
    assert "MirroredStrategy: 4 replica(s)" in texts["devices"]
    assert texts["batch"] == "train: 8 rows a step"  # Text without labels.
    assert "does not use it" in texts["xla"]
    assert "computes in float32" in texts["bfloat16"]
    assert texts["all_reduce"] == "the sum of 1 to 4 is 10 on each replica"


def test_a_gpu_that_tensorflow_does_not_see(case, monkeypatch):
    def path(name):
        assert name == "/dev"
        return types.SimpleNamespace(glob=lambda pattern: ["/dev/nvidia0"])

    monkeypatch.setattr(checkups.pathlib, "Path", path)
    with pytest.raises(check.Imperfect, match="this machine has a GPU: inst"):
        checkups.devices(case)


def test_labelled_rows_must_be_divided_too(case):
    checkups.devices(case)
    case.config = schema.Config(
        finetune=schema.FinetuneConfig(global_batch_size=6)
    )
    with pytest.raises(ValueError, match="finetune.global_batch_size=6 must"):
        checkups.batch(case)
