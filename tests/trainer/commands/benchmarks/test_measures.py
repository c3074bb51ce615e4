"""What each benchmark reports, in its own rounds, and where it writes it."""

import itertools
import json
import types

import pytest

from configs import schema
from trainer.commands import benchmark
from trainer.commands.benchmarks import input as input_benchmark
from trainer.commands.benchmarks import serving, step, steps
from trainer.run import Run
from trainer.serving import loading


@pytest.fixture
def create(tiny, one_device, tmp_path):
    """A function: changes, workdir -> a run."""

    def run(more=(), workdir=tmp_path / "w"):
        changes = {"benchmark.num_rounds": 3, **dict(more)}
        return Run(tiny(changes), workdir=str(workdir), runtime=one_device)

    return run


def test_prints_and_writes_its_result(create, tmp_path, capsys, monkeypatch):
    figures = {"figure": 1.5, "f" * 40: 2}
    monkeypatch.setitem(benchmark.MEASURES, "input", lambda _: figures)
    benchmark.run(create({"benchmark.what": "input"}))
    path = tmp_path / "w" / "benchmark-input.json"
    result = json.loads(path.read_text())
    assert result["what"] == "input"
    assert figures.items() <= result.items()
    printed = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in printed] == list(result)


def test_a_step_and_the_reference(create, monkeypatch):
    # Memory is measured here, without other processes.
    peaks = {"create_steps": 100, "create_reference": 550}
    monkeypatch.setattr(
        step.machine, "peak_bytes", lambda create, *_: peaks[create.__name__]
    )
    monkeypatch.setattr(step.machine, "matmul_size", lambda: 64)
    changes = {
        "benchmark.reference": True,
        "train.steps_per_call": 2,
        "train.global_batch_size": 6,  # It has no quarter.
    }
    run = create(changes)
    result = step.measure(run)
    assert result["rows"] == 6
    assert 0 < result["real_tokens"] <= 6 * 16
    assert 0 < result["predicted_slots"] <= 6 * run.config.num_predictions
    assert result["milliseconds_minimum"] <= result["milliseconds_median"]
    assert result["real_tokens_per_second"] == pytest.approx(
        1000 * result["real_tokens"] / result["milliseconds_median"], rel=0.01
    )
    assert result["memory_ratio"] == 5.5
    assert len(result["ratios"]) == 3
    bounds = ("input", "compute", "launches", "memory")
    assert result["verdict"].split(":")[0] in bounds
    # Documents one a row hold fewer tokens, in the same time.
    packed = result["real_tokens"] / result["reference_real_tokens"]
    assert packed > 1
    assert result["ratio_per_real_token"] == pytest.approx(
        result["ratio_median"] * packed, abs=0.02
    )


@pytest.mark.parametrize(
    ("rows", "parts", "expected"), [(8, 1, 2), (6, 1, None), (8, 4, None)]
)
def test_a_quarter_of_the_rows_where_there_is_one(
    create, rows, parts, expected
):
    more = {
        "train.global_batch_size": rows,
        "train.accumulation_steps": parts,
    }
    quarter = step._quarter(steps.create_task(create(more)))
    assert (quarter and quarter.train.global_batch_size) == expected


@pytest.mark.parametrize(
    ("waits", "quarter", "share", "verdict"),
    [
        (0.06, 0.3, 0.9, "input: a step waits 6%"),
        (0.05, 0.3, 0.5, "compute"),
        (-0.01, 0.71, 0.49, "launches"),
        (-0.01, 0.69, 0.49, "memory"),
    ],
)
def test_verdict(waits, quarter, share, verdict):
    seconds = {"step": [9.0, 1.0, 1.0], "quarter": [quarter]}
    found = step._verdict(seconds, waits=waits, share_of_peak=share)
    assert found.startswith(verdict)


def test_the_reference_has_one_device(tiny, devices):
    with pytest.raises(ValueError, match="2 replicas; use --strategy=one"):
        steps.create_reference(tiny(), devices(2))


@pytest.mark.soak  # Half of it is compiling.
def test_the_first_losses_of_step_and_reference_are_one(tiny, one_device):
    config = tiny({"data.packing": "document", "train.steps_per_call": 1})
    ours = steps.create_steps(config, one_device)
    theirs = steps.create_reference(config, one_device)
    done, _, sums = ours.function(*ours.arguments)
    loss = theirs.function(*theirs.arguments)
    assert int(done) == 1
    assert float(sums["loss"] / sums["weight"]) == pytest.approx(
        float(loss), rel=1e-5
    )


def clock(*rounds):
    """Told before and after each round of so many seconds."""
    ends = itertools.accumulate(rounds)
    times = ((end - t, end) for t, end in zip(rounds, ends, strict=True))
    times = itertools.chain.from_iterable(times)
    return lambda: next(times)


def test_the_input_without_its_first_round(create, monkeypatch):
    monkeypatch.setattr(input_benchmark, "_BATCHES_A_ROUND", 5)
    monkeypatch.setattr(input_benchmark, "_DOCUMENTS_A_ROUND", 3)
    run = create()
    # The first rounds, of texts and of batches, take 100 seconds.
    clocks = types.SimpleNamespace(
        perf_counter=clock(100, 9, 9, 9, 100, 1, 2, 4),
        process_time=clock(100, 1, 5, 3, 100, 4, 2, 8),
    )
    with monkeypatch.context() as patch:
        patch.setattr(input_benchmark, "_encode", lambda raw, _: 30)
        patch.setattr(input_benchmark, "time", clocks)
        result = input_benchmark.measure(run)
    tokens = 5 * 8 * 16
    assert result == {
        "tokens_per_second_median": tokens / 2,
        "tokens_per_second_minimum": tokens / 4,
        "tokens_per_second_maximum": tokens,
        "tokens_per_second_a_core": tokens / 4,
        "milliseconds_per_batch": 400,
        "text_to_ids_tokens_per_second_a_core": 30 / 3,
        "text_to_ids_documents": 3,
        "global_batch_size": 8,
        "sequence_length": 16,
    }
    raw = [b"One  two\x00 three", b""]
    assert input_benchmark._encode(raw, run.rows.tokenizer) == 3


def test_the_classifier_of_an_export(create, exported, monkeypatch):
    monkeypatch.setattr(serving, "_CALLS", {1: 3, 4: 2})
    result = serving.measure(create(workdir=exported))
    assert result["signature"] == "classify"
    assert 0 < result["bytes_per_text"] < 200
    for size in (1, 4):
        assert result[f"batch_{size}_texts_per_second"] > 0
        middle, slow = (
            result[f"batch_{size}_milliseconds_p{n}"] for n in (50, 99)
        )
        assert 0 < middle <= slow
    parts = ("import", "load", "first_answer")
    total = sum(result[f"cold_start_seconds_{part}"] for part in parts)
    assert 0 < total <= result["cold_start_seconds"] + 0.02  # Rounded each.


def test_serving_without_its_first_round(create, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="make it with --mode=export"):
        serving.measure(create())
    # Every call takes 100 seconds, then, from the second round on, 2.
    times = clock(*[100] * 5, *[2] * 15)
    monkeypatch.setattr(serving, "_CALLS", {1: 3, 4: 2})
    monkeypatch.setattr(serving.time, "perf_counter", times)
    monkeypatch.setattr(serving, "_cold_start", lambda *_: {})
    (tmp_path / "w" / "export").mkdir(parents=True)
    fake = loading.Exported({}, {"embed": lambda text: {}})
    monkeypatch.setattr(loading, "load", lambda _: fake)
    result = serving.measure(create())
    assert result["batch_1_texts_per_second"] == 0.5
    assert result["batch_4_texts_per_second"] == 2.0
    assert result["batch_4_milliseconds_p99"] == 2_000


def test_texts_are_stored_documents_over_again(tmp_path):
    path = tmp_path / "text.txt"
    path.write_bytes(b"One!\n\ntwo \xff\n")
    data = schema.DataConfig(source="text", path=str(path))
    two = [b"One!", b"two \xff"]
    assert serving._texts(data, number=5) == [*two, *two, b"One!"]
