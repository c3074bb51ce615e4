"""The batches that are shown are those that are trained on, everywhere."""

import hashlib
import json
import os
import pathlib
import subprocess
import sys

import pytest

from input_pipeline import manifest, preparation, pretraining
from trainer.commands import inspect
from trainer.run import Run

# Two epochs meet at step 15.
SHOWN = {"inspect.step": 12, "inspect.num_steps": 6, "inspect.num_rows": 3}


@pytest.fixture
def shown(tiny, capsys, tmp_path):
    """A function: runtime and changes -> the objects that are printed."""

    def run(runtime, more=()):
        config = tiny({**SHOWN, **dict(more)})
        inspect.run(Run(config, workdir=str(tmp_path / "w"), runtime=runtime))
        assert not (tmp_path / "w").exists()
        return [json.loads(row) for row in capsys.readouterr().out.splitlines()]

    return run


@pytest.fixture(scope="module")
def batches(tiny):
    """The same global batches as arrays, without any strategy."""
    config = tiny()
    prepared = manifest.open_prepared(preparation.prepare(config))
    data = pretraining.training_batches(prepared, config, first_step=12)
    return [
        {key: value.numpy() for key, value in batch.items()}
        for batch in data.take(6)
    ]


def test_counts_and_digests_are_what_the_documentation_says(
    shown, one_device, batches
):
    lines = shown(one_device)
    assert [line["step"] for line in lines] == list(range(12, 18))
    assert len({line["digest"] for line in lines}) == 6
    order = (
        "token_ids",
        "segment_ids",
        "position_ids",
        "mask_positions",
        "mask_labels",
        "mask_weights",
    )
    for line, batch in zip(lines, batches, strict=True):
        state = hashlib.sha256()
        for key in order:
            kind = "<f4" if key == "mask_weights" else "<i4"
            assert batch[key].shape[0] == 8
            state.update(batch[key].astype(kind).tobytes("C"))
        assert line["digest"] == state.hexdigest()
        assert line["real_tokens"] == (batch["segment_ids"] > 0).sum()
        assert line["masked"] == (batch["mask_weights"] > 0).sum() > 0


def test_rows_show_masks_and_answers(shown, one_device):
    everything = {
        "masking.select_rate": 1.0,
        "masking.mask_rate": 1.0,
        "masking.random_rate": 0.0,
    }
    for line in shown(one_device, everything):
        assert len(line["rows"]) == 3
        for row in line["rows"]:
            hidden = " ".join(row["segments"]).split()
            assert {*hidden} == {"[mask]"}
            assert len(row["answers"]) == len(hidden)
    lines = shown(one_device, {"masking.mask_rate": 0.0})
    words = {w for line in lines for r in line["rows"] for w in r["answers"]}
    assert words & {"movie", "was", "loved", "hated"}
    assert not words & {"", "[UNK]", "[mask]"}


@pytest.mark.parametrize(
    ("num_devices", "accumulation"),
    [(4, 2), pytest.param(2, 1, marks=pytest.mark.soak)],
)
def test_the_same_under_every_layout(
    shown, one_device, devices, num_devices, accumulation
):
    more = {"train.accumulation_steps": accumulation}
    assert shown(devices(num_devices), more) == shown(one_device)


@pytest.mark.parametrize(("number", "shown_rows"), [(99, 8), (0, 0)])
def test_any_step_is_there_at_once_with_as_many_rows_as_there_are(
    shown, one_device, number, shown_rows
):
    more = {
        "inspect.step": 10**12,
        "inspect.num_rows": number,
        "inspect.num_steps": 1,
    }
    [line] = shown(one_device, more)
    assert line["step"] == 10**12
    assert line["real_tokens"] > 0
    assert len(line["rows"]) == shown_rows


def test_another_runs_batches_are_not_shown(tiny, finished, one_device, capsys):
    inspect.run(
        Run(tiny(SHOWN), workdir=str(finished.workdir), runtime=one_device)
    )
    assert capsys.readouterr().out
    config = tiny({**SHOWN, "masking.select_rate": 0.3})
    with pytest.raises(ValueError, match="holds another run.*select_rate"):
        inspect.run(
            Run(config, workdir=str(finished.workdir), runtime=one_device)
        )
    assert not capsys.readouterr().out


def test_a_process_of_its_own_splits_its_device_first(shown, one_device, tiny):
    """Not after TensorFlow has read the rows, when it would be too late."""
    config = tiny(SHOWN)
    path = pathlib.Path(config.data.prepared_dir) / "config.json"
    path.write_text(json.dumps({"config": config.to_dict()}))
    argv = ["--mode=inspect", "--num_virtual_devices=2", f"--config={path}"]
    done = subprocess.run(
        [sys.executable, "-m", "trainer.main", *argv],
        cwd=pathlib.Path(__file__).parents[3],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found == shown(one_device)
