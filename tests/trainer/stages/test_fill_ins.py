"""Tests of trainer/commands/fill_ins.py."""

import io
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import manifest, preparation
from trainer import main as cli
from trainer import modeling
from trainer.stages import fill_ins, pretraining_task
from trainer.training import strategies

SENTENCE = "the [MASK] was good and i [MASK] it"


@pytest.fixture(scope="module")
def prepared(tiny):
    return manifest.open_prepared(preparation.prepare(tiny()))


@pytest.fixture
def create(tiny, prepared):
    """A function: strategy and precision -> a model that knows nothing."""

    def model(strategy=None, precision="float32"):
        return pretraining_task.create(
            tiny(),
            strategy or tf.distribute.OneDeviceStrategy("CPU:0"),
            prepared,
            strategies.Arithmetic(precision, jit=False),
        ).model

    return model


def test_every_mask_gets_its_best_words(create, prepared):
    tokenizer = prepared.tokenizer
    result = fill_ins.fill_in(create(), tokenizer, SENTENCE, top_k=3)
    assert [len(masked) for masked in result] == [3, 3]
    specials = {tokenizer.vocabulary[i] for i in tokenizer.special.ids()}
    for masked in result:
        rates = [rate for _, rate in masked]
        assert rates == sorted(rates, reverse=True)
        assert 0 < sum(rates) <= 1
        assert not specials & {word for word, _ in masked}


def test_padding_would_change_nothing(create, prepared):
    model, tokenizer = create(), prepared.tokenizer
    ids = np.zeros([1, prepared.sequence_length], np.int32)
    prompt = tokenizer.encode_prompt(SENTENCE)
    ids[0, : len(prompt)] = prompt
    batch = modeling.features(tf.constant(ids))
    batch["mask_positions"] = tf.constant([[1, 6]])
    logits = np.where(tokenizer.is_special, -np.inf, model(batch)[0])
    rates = tf.nn.softmax(logits).numpy().max(axis=-1)
    result = fill_ins.fill_in(model, tokenizer, SENTENCE, top_k=1)
    np.testing.assert_allclose(
        [masked[0][1] for masked in result], rates, rtol=1e-5
    )


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_on_several_devices(create, prepared, precision):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    one, two = (
        fill_ins.fill_in(
            create(where, precision), prepared.tokenizer, SENTENCE, top_k=2
        )
        for where in (None, strategy)
    )
    assert one == two


def test_no_more_words_than_there_are(create, prepared):
    tokenizer = prepared.tokenizer
    num_words = tokenizer.vocabulary_size - len(tokenizer.special.ids())
    result = fill_ins.fill_in(create(), tokenizer, SENTENCE, top_k=1000)
    for masked in result:
        assert len(masked) == num_words
        assert sum(rate for _, rate in masked) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(
    "sentence", ["the movie was good", "", "good " * 40 + "[MASK]"]
)
def test_no_mask_within_reach_is_no_answer(create, prepared, sentence):
    assert (
        fill_ins.fill_in(create(), prepared.tokenizer, sentence, top_k=2) == []
    )


def test_prints_text_probability_and_token(create, prepared, tiny, capsys):
    callback = fill_ins.FillIns(
        tiny().evaluation.sentences, prepared.tokenizer, top_k=2
    )
    callback.set_model(create())
    callback.set_params({"epochs": 1})
    callback.on_epoch_end(0)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "  the movie was [MASK] and i [MASK] it"
    assert len(rows) == 4
    for number, row in enumerate(rows):
        rate, token, completed = row.split(maxsplit=2)
        assert 0 < float(rate) < 1
        before, after = [
            ("the movie was ", " and i [MASK] it"),
            ("the movie was [MASK] and i ", " it"),
        ][number // 2]
        assert completed == f"{before}{token}{after}"


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [
        (1, [1]),
        (20, range(1, 21)),
        (21, [*range(2, 21, 2), 21]),
        (100, range(5, 101, 5)),
    ],
)
def test_many_epochs_are_not_all_shown(
    prepared, tiny, monkeypatch, capsys, epochs, shown
):
    monkeypatch.setattr(fill_ins, "fill_in", lambda *_, **__: [])
    steps = []
    callback = fill_ins.FillIns(
        tiny().evaluation.sentences,
        prepared.tokenizer,
        top_k=2,
        record=lambda step, _: steps.append(step),
    )
    callback.set_params({"steps": 1, "epochs": epochs})
    for epoch in range(epochs):
        callback.on_train_batch_end(0)
        callback.on_epoch_end(epoch)
    assert steps == list(shown)
    assert len(capsys.readouterr().out.splitlines()) == len(steps)


def test_an_encoding_that_cannot_show_them_does_not_end_a_run(
    changes, tmp_path, monkeypatch
):
    flags = {
        **changes,
        "evaluation.sentences": ["\u5f88 na\u00efve [MASK]"],
        "train.num_steps": 2,
        "evaluation.every_steps": 0,
    }
    content = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdout", io.TextIOWrapper(content, encoding="latin-1")
    )
    argv = [f"--config.{name}={value}" for name, value in flags.items()]
    workdir = f"--workdir={tmp_path}"
    assert cli.main(["--mode=pretrain", workdir, *argv]) == 0
    assert "  ? na\u00efve [MASK]\n".encode("latin-1") in content.getvalue()


def test_a_run_records_them_after_every_epoch(finished, look, prepared):
    found = [e for e in look.events(finished.workdir) if "event" in e]
    # The last epoch is shorter.
    assert [event["step"] for event in found] == [15, 30, 33]
    assert {(e["stage"], e["event"]) for e in found} == {
        ("pretrain", "fill_ins")
    }
    (sentence,) = found[0]["fill_ins"]
    assert sentence["text"] == "the movie was [MASK] and i [MASK] it"
    assert [len(masked) for masked in sentence["masks"]] == [2, 2]
    for token, rate in sentence["masks"][0]:
        assert token in prepared.tokenizer.vocabulary
        assert 0 < rate < 1


def test_a_piece_of_a_word_is_joined(prepared, create, tiny, capsys):
    # [MASK] after a word: what completes it needs no marks.
    tokenizer = types.SimpleNamespace(
        encode_prompt=prepared.tokenizer.encode_prompt,
        special=prepared.tokenizer.special,
        is_special=prepared.tokenizer.is_special,
        vocabulary=[f"##{word}" for word in prepared.tokenizer.vocabulary],
    )
    callback = fill_ins.FillIns(tiny().evaluation.sentences, tokenizer, top_k=2)
    callback.set_model(create())
    callback.set_params({"epochs": 1})
    callback.on_epoch_end(0)
    rows = capsys.readouterr().out.splitlines()[1:]
    assert all("##" in row.split()[1] for row in rows)
    assert not any("##" in row.split(maxsplit=2)[2] for row in rows)
