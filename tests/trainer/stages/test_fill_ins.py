"""What a model fills in: the best words, shown and recorded after an epoch."""

import types

import numpy as np
import pytest
import tensorflow as tf

from input_pipeline import manifest, preparation
from trainer import modeling
from trainer.stages import fill_ins, pretraining_task
from trainer.training import strategies

SENTENCE = "the [MASK] was good and i [MASK] it"


@pytest.fixture(scope="module")
def prepared(tiny):
    return manifest.open_prepared(preparation.prepare(tiny()))


@pytest.fixture(scope="module")
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


@pytest.fixture(scope="module")
def model(create):
    return create()


def test_every_mask_gets_its_best_words(model, prepared):
    tokenizer = prepared.tokenizer
    specials = {tokenizer.vocabulary[i] for i in tokenizer.special.ids()}
    num_words = tokenizer.vocabulary_size - len(specials)
    for top_k, number in ((3, 3), (1000, num_words)):
        result = fill_ins.fill_in(model, tokenizer, SENTENCE, top_k=top_k)
        assert [len(masked) for masked in result] == [number, number]
        for masked in result:
            rates = [rate for _, rate in masked]
            assert rates == sorted(rates, reverse=True)
            assert 0 < sum(rates) < 1 + 1e-5
            assert not specials & {word for word, _ in masked}
    assert sum(rates) == pytest.approx(1, rel=1e-5)  # Of all words.
    for sentence in ("the movie was good", "", "good " * 40 + "[MASK]"):
        # No mask is within reach.
        assert fill_ins.fill_in(model, tokenizer, sentence, top_k=2) == []


def test_padding_would_change_nothing(model, prepared):
    tokenizer = prepared.tokenizer
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


def test_the_same_on_several_devices(create, prepared):
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    one, two = (
        fill_ins.fill_in(
            create(where, "bfloat16"), prepared.tokenizer, SENTENCE, top_k=2
        )
        for where in (None, strategy)
    )
    assert one == two


@pytest.mark.parametrize("mark", ["", "##"])
def test_prints_text_probability_and_token(prepared, model, tiny, capsys, mark):
    tokenizer = types.SimpleNamespace(
        encode_prompt=prepared.tokenizer.encode_prompt,
        special=prepared.tokenizer.special,
        is_special=prepared.tokenizer.is_special,
        vocabulary=[mark + word for word in prepared.tokenizer.vocabulary],
    )
    callback = fill_ins.FillIns(
        tiny().evaluation.sentences,
        tokenizer,
        top_k=2,
        record=lambda step, event: None,
    )
    callback.set_model(model)
    callback.set_params({"epochs": 1, "steps": 1})
    callback.on_epoch_end(0)
    head, *rows = capsys.readouterr().out.splitlines()
    assert head == "  the movie was [MASK] and i [MASK] it"
    assert len(rows) == 4
    for number, row in enumerate(rows):
        rate, token, completed = row.split(maxsplit=2)
        assert 0 < float(rate) < 1
        assert token.startswith(mark)
        before, after = [
            ("the movie was ", " and i [MASK] it"),
            ("the movie was [MASK] and i ", " it"),
        ][number // 2]
        # What completes a word needs no marks.
        assert completed == f"{before}{token.removeprefix(mark)}{after}"


@pytest.mark.parametrize(
    ("epochs", "shown"),
    [(1, [1]), (20, range(1, 21)), (21, [*range(2, 21, 2), 21])],
)
def test_many_epochs_are_not_all_shown(prepared, model, epochs, shown):
    steps = []
    callback = fill_ins.FillIns(
        [],
        prepared.tokenizer,
        top_k=2,
        record=lambda step, _: steps.append(step),
    )
    callback.set_params({"steps": 1, "epochs": epochs})
    for epoch in range(epochs):
        callback.on_train_batch_end(0)
        callback.on_epoch_end(epoch)
    assert steps == list(shown)


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
