"""One rule decides whether an artifact still belongs to a run."""

import dataclasses
import json

import pytest

from configs import schema
from trainer import chain

ROWS = {"rows": "r1"}
TUNED = {"labelled rows": "l1", "encoder": "e1"}


def _config(**changes):
    config = schema.defaults()
    named = {name.replace("__", "."): value for name, value in changes.items()}
    config.update_from_flattened_dict(named)
    return schema.Config.from_config_dict(config)


def _require(kind, before, now, *, sources=ROWS, new_sources=None):
    chain.require_same(
        chain.Artifact.of(kind, before, sources),
        chain.Artifact.of(kind, now, new_sources or sources),
        workdir="runs/x",
        allow_changed=now.checkpoint.allow_changed,
    )


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("seed", 1, "seed was 0, now 1"),
        ("data__sequence_length", 128, "data.sequence_length was 256, now"),
        ("tokenizer__kind", "wordpiece", "tokenizer.kind was 'unicode_word'"),
        ("masking__select_rate", 0.2, "masking.select_rate was 0.15, now"),
        ("model__num_layers", 3, "model.num_layers was 2, now 3"),
        ("train__global_batch_size", 64, "train.global_batch_size was 32"),
        ("data__group_field", "author", "data.group_field was '', now"),
    ],
)
def test_another_encoder_is_named_by_its_knob_and_refused(name, value, shown):
    before = _config(data__source="csv", data__path="a")
    sources = {"data__source": "csv", "data__path": "a"}
    for allowed in (False, True):  # That is for the optimizer alone.
        now = _config(
            **sources, **{name: value}, checkpoint__allow_changed=allowed
        )
        with pytest.raises(ValueError, match=f"runs/x holds .*{shown}"):
            _require("encoder", before, now)


def test_every_difference_is_shown():
    with pytest.raises(ValueError, match="seed was.*; model.num_heads was"):
        _require("encoder", _config(), _config(seed=1, model__num_heads=8))


@pytest.mark.parametrize(
    "changes",
    [
        {"data__prepared_dir": "elsewhere", "data__num_processes": 3},
        {"train__num_steps": 9, "train__accumulation_steps": 2},
        {"train__precision": "float16", "train__jit": "on"},
        {"evaluation__every_steps": 3, "checkpoint__keep_last": 1},
        {"finetune__num_epochs": 9, "finetune__patience": 2},
        {"finetune__self_training_rounds": 1, "finetune__ngrams": False},
    ],
)
def test_speed_places_and_lengths_may_change(changes):
    for kind, sources in (("encoder", ROWS), ("classifier", TUNED)):
        before, now = (
            chain.Artifact.of(kind, config, sources)
            for config in (_config(), _config(**changes))
        )
        assert before.id == now.id
        assert not before.stale_because(now)


def test_content_decides_and_not_where_it_lies():
    before = _config(data__source="csv", data__path="a.csv")
    moved = _config(data__source="csv", data__path="./a.csv")
    _require("encoder", before, moved)
    with pytest.raises(ValueError, match="text has changed .*rows r1, now r2"):
        _require("encoder", before, moved, new_sources={"rows": "r2"})


@pytest.mark.parametrize(
    ("kind", "sources", "name"),
    [
        ("encoder", ROWS, "optimizer__learning_rate"),
        ("classifier", TUNED, "finetune__learning_rate"),
    ],
)
def test_another_way_to_learn_must_be_allowed(kind, sources, name):
    knob = name.replace("__", ".")
    now = _config(**{name: 0.5})
    with pytest.raises(ValueError, match=f"{knob} was .*0.5.*allow_changed"):
        _require(kind, _config(), now, sources=sources)
    now = _config(**{name: 0.5}, checkpoint__allow_changed=True)
    _require(kind, _config(), now, sources=sources)


@pytest.mark.parametrize("name", ["finetune__pooling", "checkpoint__best_by"])
def test_what_a_classifier_is_does_not_concern_an_encoder(name):
    value = "max" if name == "finetune__pooling" else "accuracy"
    now = _config(**{name: value}, checkpoint__allow_changed=True)
    _require("encoder", _config(), now)
    with pytest.raises(ValueError, match=f"{name.replace('__', '.')} was"):
        _require("classifier", _config(), now, sources=TUNED)


def test_a_classifier_keeps_its_encoder():
    other = {**TUNED, "encoder": "e2"}
    with pytest.raises(ValueError, match="encoder to begin with is another"):
        _require(
            "classifier",
            _config(),
            _config(),
            sources=TUNED,
            new_sources=other,
        )


def test_a_knob_that_came_later_had_its_default():
    made = chain.Artifact.of("encoder", _config(), ROWS)
    knobs = {k: v for k, v in made.knobs.items() if k != "masking.policy"}
    older = dataclasses.replace(made, knobs=knobs)
    assert older.changed_knobs(made) == ([], [])


def test_an_id_follows_from_everything_that_decides():
    made = chain.Artifact.of("encoder", _config(), ROWS)
    others = [
        chain.Artifact.of("encoder", _config(seed=1), ROWS),
        chain.Artifact.of("encoder", _config(), {"rows": "r2"}),
        made.at(5),
        chain.Artifact.of("classifier", _config(), ROWS),
    ]
    assert len({made.id, *(other.id for other in others)}) == 5
    same = chain.Artifact.of("encoder", _config(train__log_every=7), ROWS)
    assert same.id == made.id
    facts = json.loads(json.dumps(made.at(5).to_dict()))
    assert chain.Artifact.read(facts, "here") == made.at(5)
    assert facts["artifact"]["id"] == made.at(5).id


def test_an_older_version_is_recognised():
    with pytest.raises(ValueError, match="runs/x was made by an older version"):
        chain.Artifact.read({"step": 3}, "runs/x")
