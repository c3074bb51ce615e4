"""One rule decides whether an artifact still belongs to a run."""

import dataclasses
import json

import pytest

from configs import schema
from trainer import chain

SOURCES = {
    "encoder": {"rows": "r1"},
    "classifier": {"labelled rows": "l1", "encoder": "e1"},
}


def _config(changes=()):
    config = schema.defaults()
    config.update_from_flattened_dict(dict(changes))
    return schema.Config.from_config_dict(config)


def _require(kind, changes=(), sources=None):
    """Goes on with what was made with the defaults, as it is changed."""
    made_from, now = SOURCES[kind], _config(changes)
    chain.require_same(
        chain.Artifact.of(kind, _config(), made_from),
        chain.Artifact.of(kind, now, {**made_from, **(sources or {})}),
        workdir="runs/x",
        allow_changed=now.checkpoint.allow_changed,
    )


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("seed", 1, "seed was 0, now 1"),
        ("data.sequence_length", 128, "data.sequence_length was 256, now"),
        ("tokenizer.kind", "wordpiece", "tokenizer.kind was 'unicode_word'"),
        ("masking.select_rate", 0.2, "masking.select_rate was 0.15, now"),
        ("train.global_batch_size", 64, "train.global_batch_size was 32"),
    ],
)
def test_another_encoder_is_named_by_its_knob_and_refused(name, value, shown):
    for allowed in (False, True):  # That is for the optimizer alone.
        now = {name: value, "checkpoint.allow_changed": allowed}
        with pytest.raises(ValueError, match=f"runs/x holds .*{shown}"):
            _require("encoder", now)
        now["model.num_layers"] = 3
        with pytest.raises(ValueError, match="model.num_layers was 2, now 3"):
            _require("encoder", now)  # Every difference is named.


@pytest.mark.parametrize(
    "changes",
    [
        {"data.prepared_dir": "elsewhere", "data.num_processes": 3},
        {"train.num_steps": 9, "train.accumulation_steps": 2},
        {"train.precision": "float16", "train.jit": "on"},
        {"evaluation.every_steps": 3, "checkpoint.keep_last": 1},
        {"finetune.num_epochs": 9, "finetune.patience": 2},
        {"finetune.self_training_rounds": 1, "finetune.ngrams": False},
        # Content decides, and not where it lies.
        {"data.path": "./a.csv"},
    ],
)
def test_speed_places_and_lengths_may_change(changes):
    csv = {"data.source": "csv", "data.path": "a.csv"}
    for kind, sources in SOURCES.items():
        before, now = (
            chain.Artifact.of(kind, _config(values), sources)
            for values in (csv, {**csv, **changes})
        )
        assert before.id == now.id
        assert not before.stale_because(now)


@pytest.mark.parametrize(
    ("kind", "source", "message"),
    [
        ("encoder", "rows", "text has changed .*rows r1, now new"),
        ("classifier", "encoder", "the encoder to begin with is another"),
    ],
)
def test_what_it_is_made_from_may_not_change(kind, source, message):
    with pytest.raises(ValueError, match=message):
        _require(kind, sources={source: "new"})


@pytest.mark.parametrize(
    ("kind", "knob"),
    [
        ("encoder", "optimizer.learning_rate"),
        ("classifier", "finetune.learning_rate"),
    ],
)
def test_another_way_to_learn_must_be_allowed(kind, knob):
    with pytest.raises(ValueError, match=f"{knob} was .*0.5.*allow_changed"):
        _require(kind, {knob: 0.5})
    _require(kind, {knob: 0.5, "checkpoint.allow_changed": True})


def test_what_a_classifier_is_does_not_concern_an_encoder():
    for changes in (
        {"finetune.pooling": "max"},
        {"checkpoint.best_by": "accuracy"},
    ):
        _require("encoder", changes)
        with pytest.raises(ValueError, match=f"{[*changes][0]} was"):
            _require("classifier", changes)


def test_a_knob_that_came_later_had_its_default():
    made = chain.Artifact.of("encoder", _config(), SOURCES["encoder"])
    knobs = {k: v for k, v in made.knobs.items() if k != "masking.policy"}
    older = dataclasses.replace(made, knobs=knobs)
    assert not older.stale_because(made)


def test_how_text_is_read_is_named_whether_it_was_set_or_is():
    csv = {"data.source": "csv", "data.path": "a.csv"}
    told, given = (
        chain.Artifact.of("encoder", _config({**csv, **more}), {"rows": rows})
        for rows, more in (("r1", {}), ("r2", {"data.separator": ";"}))
    )
    assert told.stale_because(given) == "data.separator was '', now ';'"
    assert given.stale_because(told) == "data.separator was ';', now ''"


def test_an_id_follows_from_everything_that_decides():
    rows = SOURCES["encoder"]
    made = chain.Artifact.of("encoder", _config(), rows)
    others = [
        chain.Artifact.of("encoder", _config({"seed": 1}), rows),
        chain.Artifact.of("encoder", _config(), {"rows": "r2"}),
        chain.Artifact.of("classifier", _config(), rows),
        made.at(5),
    ]
    assert len({made.id, *(other.id for other in others)}) == 5
    facts = json.loads(json.dumps(made.at(5).to_dict()))
    assert chain.Artifact.read(facts, "here") == made.at(5)
    assert facts["artifact"]["id"] == made.at(5).id
    with pytest.raises(ValueError, match="runs/x was made by an older version"):
        chain.Artifact.read({"step": 3}, "runs/x")
