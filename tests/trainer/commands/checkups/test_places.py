"""What a run needs of the disk; planted faults: test_doctor.py."""

import pytest

from configs import overrides, schema
from storage import lease
from tests import bucket as store
from trainer import modeling
from trainer import workdir as workdir_lib
from trainer.commands.checkups import check, places


def test_a_workdir_that_is_there_and_one_that_is_not(tiny, tmp_path):
    workdir = tmp_path / "a" / "b"
    config = tiny({"data.prepared_dir": str(tmp_path / "c")})
    case = check.Case(config, str(workdir), None, "")
    assert "no run yet" in places.workdir(case)
    assert list(tmp_path.iterdir()) == []
    workdir.mkdir(parents=True)
    assert "no run yet" in places.workdir(case)


def test_a_run_that_can_go_on(tiny, finished):
    case = check.Case(tiny(), str(finished.workdir), None, "")
    assert "a run that can go on" in places.workdir(case)


IN_STORE = {"data.prepared_dir": "gs://bucket/prepared"}


def test_places_in_a_store(tiny, bucket, monkeypatch):
    done = []
    for method in ("open", "remove"):
        real = getattr(bucket, method)
        monkeypatch.setattr(
            bucket,
            method,
            lambda path, *mode, real=real: (
                done.append((path.rpartition("/")[0], *mode))
                or real(path, *mode)
            ),
        )
    case = check.Case(tiny(IN_STORE), "gs://bucket/run", None, "")
    text = places.workdir(case)
    assert text == "gs://bucket/run can be written; no run yet"
    assert done == [
        (place, *mode)
        for place in ("gs://bucket/run", "gs://bucket/prepared")
        for mode in (["wb"], ["rb"], [])
    ]
    assert not list(bucket.objects)


@pytest.mark.parametrize("workdir", ["gs://bucket/run", "runs"])
def test_a_store_that_cannot_be_written(tiny, bucket, workdir):
    bucket.changes_left = 0
    with pytest.raises(store.GoneError):
        places.workdir(check.Case(tiny(IN_STORE), workdir, None, ""))


def test_a_workdir_in_a_store_in_which_another_trains(
    tiny, bucket, monkeypatch
):
    monkeypatch.setattr(lease, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(lease, "_SILENT_BEATS", 10_000)
    case = check.Case(tiny(IN_STORE), "gs://bucket/run", None, "")
    with workdir_lib.locked("gs://bucket/run"):
        with pytest.raises(ValueError, match="Another trainer is at work in"):
            places.workdir(case)
    assert "can be written" in places.workdir(case)


def test_the_space_of_a_store_is_not_known(tiny):
    case = check.Case(tiny(IN_STORE), "gs://bucket/run", None, "")
    text = places.space(case)
    assert text.startswith("about 0.0 GB needed for the checkpoints of a run;")
    assert text.endswith("what is free is not checked in a store")


@pytest.mark.parametrize("name", ["sample", "imdb_notebook", "bert_small"])
def test_the_parameters_are_about_as_many_as_the_model_has(name):
    config = overrides.load_config(f"configs/{name}.py", changes={})
    model = modeling.create_masked_lm(
        config.model,
        vocabulary_size=config.tokenizer.vocabulary_size,
        sequence_length=config.data.sequence_length,
    )
    estimate = places._num_parameters(config)
    assert estimate == pytest.approx(model.count_params(), rel=0.03)


def test_space_grows_with_what_is_kept(tmp_path):
    sizes = []
    for keep_last in (3, 9):
        config = schema.Config(
            checkpoint=schema.CheckpointConfig(keep_last=keep_last)
        )
        case = check.Case(config, str(tmp_path), None, "")
        sizes.append(places.space(case).split(" about ")[1])
    assert sizes[0] != sizes[1]
