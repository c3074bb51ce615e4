"""What a run needs of the disk; planted faults: test_doctor.py."""

import pytest

from configs import overrides, schema
from trainer import modeling
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
