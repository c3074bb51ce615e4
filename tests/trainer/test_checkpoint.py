"""Checkpoints survive kills, flips and full disks; the best is kept."""

import errno
import itertools
import random

import keras
import numpy as np
import pytest
import safetensors

import storage
from tests import bucket as store
from tests.trainer.training import conftest as tiny
from trainer import checkpoint

FILES = (
    "weights.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)


class Run:
    """Two weights, an optimizer's slot and counter, and checkpoints."""

    def __init__(self, directory, **kwargs):
        self.weights = [
            keras.Variable(np.zeros([3, 2], np.float32), name="kernel"),
            keras.Variable(np.zeros([2], np.float32), name="bias"),
        ]
        self.optimizer = [
            keras.Variable(0, dtype="int64", name="iteration"),
            keras.Variable(np.zeros([3, 2], np.float32), name="momentum"),
        ]
        self.checkpoints = checkpoint.Checkpoints(directory, **kwargs)

    def set(self, value):
        for variable in (*self.weights, *self.optimizer):
            variable.assign(np.full(variable.shape, value))

    def values(self):
        return {
            float(number)
            for variable in (*self.weights, *self.optimizer)
            for number in np.ravel(keras.ops.convert_to_numpy(variable))
        }

    def save(self, step, **state):
        self.set(step)
        self.checkpoints.save(
            {"step": step, **state},
            weights=self.weights,
            optimizer=self.optimizer,
        )

    def restore(self):
        self.set(-1)
        return self.checkpoints.restore(
            weights=self.weights, optimizer=self.optimizer
        )

    def names(self):
        return sorted(p.name for p in self.checkpoints.directory.glob("*"))


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "checkpoints" / "pretrain")


def _name(step):
    return f"step-{step:09d}"


def test_round_trip(run):
    assert run.restore() == {}
    assert run.values() == {-1.0}
    run.save(7, seed=3)
    assert run.restore() == {"step": 7, "seed": 3}
    assert run.values() == {7.0}
    assert run.names() == ["step-000000007"]
    path = run.checkpoints.directory / _name(7)
    assert {p.name for p in path.iterdir()} == set(FILES)
    run.save(7, note="again")
    assert run.restore() == {"step": 7, "note": "again"}


@pytest.mark.parametrize(
    ("first", "second"), [("float32", "float16"), ("float16", "float32")]
)
def test_precision_and_layout_may_change(tmp_path, first, second):
    checkpoints = checkpoint.Checkpoints(tmp_path)
    before = tiny.create(tiny.mirrored(2), precision=first)
    after = tiny.create(tiny.mirrored(1), precision=second)
    before.optimizer.iterations.assign(5)
    for variable in after.model.trainable_variables:
        variable.assign(variable * 0 - 1)
    checkpoints.save(
        {"step": 5},
        weights=before.model.variables,
        optimizer=before.optimizer.variables,
    )
    checkpoints.restore(
        weights=after.model.variables, optimizer=after.optimizer.variables
    )
    assert after.optimizer.iterations.numpy() == 5
    assert tiny.largest_difference(before.weights(), after.weights()) == 0.0


def test_the_last_three_and_the_best_are_kept(run):
    losses = {1: 3.0, 2: 1.0, 3: 2.0, 4: None, 5: 1.5, 6: float("nan")}
    for step, loss in losses.items():
        run.save(step, **({"validation_loss": loss} if loss else {}))
    assert run.names() == [_name(n) for n in (2, 4, 5, 6)]
    assert run.checkpoints.best().name == _name(2)
    run.save(7, validation_loss=0.5)
    assert run.names() == [_name(n) for n in (5, 6, 7)]
    assert run.checkpoints.best().name == _name(7)


def test_the_best_by_accuracy_is_kept(run):
    pairs = [(0.5, 1.0), (0.9, 3.0), (0.9, 2.0), (0.8, 0.5), (0.7, 0.4)]
    for step, (accuracy, loss) in enumerate(pairs, start=1):
        state = {"validation_loss": loss, "validation_accuracy": accuracy}
        run.save(step, best_by="accuracy", **state)
    # Without an accuracy, none is better.
    run.save(6, validation_loss=0.1, best_by="accuracy")
    run.save(7, best_by="accuracy")
    assert run.names() == [_name(n) for n in (3, 5, 6, 7)]
    assert run.checkpoints.best().name == _name(3)


@pytest.mark.parametrize("keep_last", [1, 2])
def test_keep_last(tmp_path, keep_last):
    run = Run(tmp_path, keep_last=keep_last)
    steps = (5, 6, 999_999_999, 1_000_000_000)  # Ordered as numbers.
    for step in steps:
        run.save(step)
    assert {*run.names()} == {*map(_name, steps[-keep_last:])}
    assert run.restore()["step"] == 1_000_000_000
    assert run.checkpoints.best().name == _name(1_000_000_000)


@pytest.mark.parametrize("file", FILES)
def test_a_flipped_byte_falls_back_loudly(run, caplog, file):
    run.save(1)
    run.save(2)
    path = run.checkpoints.directory / _name(2) / file
    good = path.read_bytes()
    chance = random.Random(3)
    for place in {0, len(good) - 1, *chance.choices(range(len(good)), k=6)}:
        bad = bytearray(good)
        bad[place] ^= chance.randrange(1, 256)
        path.write_bytes(bad)
        caplog.clear()
        assert run.restore() == {"step": 1}
        assert run.values() == {1.0}
        assert str(path) in caplog.text
        assert run.checkpoints.best().name == _name(1)
    path.write_bytes(good)
    assert run.restore() == {"step": 2}
    path.unlink()
    assert run.restore() == {"step": 1}


def test_files_are_hashed_once_as_long_as_they_stay(run, monkeypatch):
    verified = []
    verify = storage.verify

    def count(path):
        verified.append(path.name)
        return verify(path)

    monkeypatch.setattr(storage, "verify", count)
    for step in (1, 2):
        run.save(step)
    run.restore()
    run.checkpoints.best()
    assert sorted(verified) == [_name(1), _name(2)]
    run.save(2)
    run.restore()
    assert verified[2:] == [_name(2)]


def test_nothing_good_left_is_an_error_and_nothing_is_deleted(run):
    for step in (1, 2):
        run.save(step)
        (run.checkpoints.directory / _name(step) / "state.json").unlink()
    with pytest.raises(ValueError, match="Every checkpoint .* is damaged"):
        run.restore()
    assert run.values() == {-1.0}
    assert run.names() == [_name(1), _name(2)]
    with pytest.raises(ValueError, match="no complete checkpoint"):
        run.checkpoints.best()


@pytest.mark.parametrize("keep_last", [1, 3])
def test_later_damaged_checkpoints_stay_and_do_not_count(tmp_path, keep_last):
    before = Run(tmp_path)
    for step in (10, 20, 30):
        before.save(step)
    for step in (20, 30):
        (tmp_path / _name(step) / "manifest.json").write_text("{")
    run = Run(tmp_path, keep_last=keep_last)
    assert run.restore() == {"step": 10}
    run.save(15)
    assert run.restore() == {"step": 15}
    kept = [15] if keep_last == 1 else [10, 15]
    assert run.names() == [_name(n) for n in (*kept, 20, 30)]
    run.save(20)  # A damaged one may be replaced.
    assert run.restore() == {"step": 20}


def test_a_checkpoint_of_another_trainer_is_neither_deleted_nor_replaced(
    tmp_path,
):
    run, other = Run(tmp_path, keep_last=1), Run(tmp_path)
    run.save(1)
    other.restore()
    for step in (2, 4, 6):
        other.save(step, note="other")
    run.save(3)
    assert run.names() == [_name(n) for n in (2, 3, 4, 6)]
    with pytest.raises(ValueError, match=f"{_name(4)} has been saved by anoth"):
        run.save(4)
    assert run.restore() == {"step": 6, "note": "other"}
    run.save(7)  # What it goes on from is its own, with what led there.
    assert run.names() == [_name(7)]


@pytest.mark.parametrize("where", ["weights", "optimizer"])
def test_arrays_that_do_not_fit_change_nothing(run, where):
    run.save(1)
    variables = getattr(run, where)
    for other, message in (
        (
            keras.Variable(np.zeros([3, 9]), name=variables[0].name),
            r"has shape",
        ),
        (keras.Variable(np.zeros([3, 2]), name="new"), r"2 variable\(s\)"),
    ):
        variables[0] = other
        with pytest.raises(ValueError, match=f"does not fit .*{message}"):
            run.restore()
        assert 1.0 not in run.values()
    # But a part may be read.
    path, bias = run.checkpoints.directory / _name(1), run.weights[1:]
    checkpoint.read_weights(path, bias)
    assert set(bias[0].numpy()) == {1.0}
    with pytest.raises(ValueError, match="new"):
        checkpoint.read_weights(path, [*bias, other])


def test_a_full_disk_is_named_and_leaves_the_last_checkpoint(run, monkeypatch):
    run.save(1, note="good")
    save_file = safetensors.numpy.save_file
    left = run.checkpoints.directory / f"{_name(3)}.tmp-99"
    left.mkdir()

    def full(arrays, path):
        assert not left.exists()  # Its space may be needed.
        if "optimizer" in str(path):
            raise safetensors.SafetensorError(
                "Error while serializing: I/O error: No space left on device"
                " (os error 28)"
            )
        save_file(arrays, path)

    monkeypatch.setattr(safetensors.numpy, "save_file", full)
    for step in (1, 2):
        with pytest.raises(OSError) as error:
            run.save(step, note="new")
        assert error.value.errno == errno.ENOSPC
        assert error.value.filename.endswith("optimizer.safetensors")
    assert run.names() == [_name(1)]
    assert run.restore() == {"step": 1, "note": "good"}


@pytest.fixture
def far(bucket):
    """A run in an object store, whose next save deletes a checkpoint."""
    run = Run(storage.path_of("gs://bucket/run/checkpoints"), keep_last=2)
    for step, loss in {1: 1.0, 2: 3.0, 3: 2.0}.items():
        run.save(step, validation_loss=loss)
    assert run.names() == [_name(n) for n in (1, 2, 3)]
    return run


def test_round_trip_through_a_store(far, bucket, caplog):
    assert far.restore() == {"step": 3, "validation_loss": 2.0}
    assert far.values() == {3.0}
    assert far.checkpoints.best().name == _name(1)
    far.save(4)
    assert far.names() == [_name(n) for n in (1, 3, 4)]
    bucket.objects[f"gs://bucket/run/checkpoints/{_name(4)}/state.json"] = b"{"
    assert far.restore()["step"] == 3
    assert "state.json has 1 bytes" in caplog.text
    # The first save of a run may end before any change.
    for number in range(4):
        run = Run(storage.path_of(f"gs://bucket/{number}"))
        bucket.changes_left = number
        with pytest.raises(store.GoneError):
            run.save(1)
        bucket.changes_left = None
        assert not run.checkpoints.exist()
        assert run.restore() == {}


def test_a_trainer_that_lost_its_lease_changes_nothing(far, bucket):
    lock = "gs://bucket/run/.lock"
    with storage.exclusive(lock, wait=False):
        far.save(4)
        other = Run(far.checkpoints.directory, keep_last=9)
        other.restore()
        for step in (5, 6):
            other.save(step)
        bucket.objects[lock] = b"another host 1 456"
        before = dict(bucket.objects)
        for step in (4, 5, 7):
            with pytest.raises(storage.LostLeaseError, match="took over"):
                far.save(step)
        with pytest.raises(storage.LostLeaseError):
            storage.append("gs://bucket/run/metrics.jsonl", "{}")
        assert dict(bucket.objects) == before
    assert dict(bucket.objects) == before


@pytest.mark.parametrize("step", [3, 4])
def test_a_save_to_a_store_may_end_before_any_change(far, bucket, step):
    """Step 3 is there already and is replaced; 4 is new."""
    before, ends = dict(bucket.objects), 0
    for number in itertools.count():
        bucket.objects.clear()
        bucket.objects.update(before)
        far.restore()
        bucket.changes_left = number
        try:
            far.save(step, validation_loss=0.5)
            break
        except store.GoneError:
            ends += 1
        bucket.changes_left = None
        new = f"gs://bucket/run/checkpoints/{_name(step)}/state.json"
        is_new = b"0.5" in bucket.objects.get(new, b"")
        manifest = new.replace("state.json", storage.MANIFEST)
        whole = manifest in bucket.objects
        state = far.restore()
        assert state["step"] == (step if whole else {3: 2, 4: 3}[step])
        assert (state["validation_loss"] == 0.5) == (whole and is_new)
        assert far.values() == {float(state["step"])}
        # What is left is gone after the next save.
        far.save(5, validation_loss=9.0)
        kept = {state["step"], 5} | ({1} - {whole and is_new})
        assert far.names() == [_name(n) for n in sorted(kept)]
        assert len(bucket.objects) == len(FILES) * len(kept)
    # Four objects come; 8 go: of the old 3 and of 1, or of 1 and 2.
    assert ends == 12
    assert far.restore() == {"step": step, "validation_loss": 0.5}
