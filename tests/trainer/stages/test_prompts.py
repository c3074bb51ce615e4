"""Prompts of one's own text: always the same, readable, with one mask."""

import random

import pytest

from configs import schema
from input_pipeline import manifest, preparation
from trainer.stages import prompts

NONE = schema.EvaluationConfig()
WORDS = [f"word{chr(97 + n)}" for n in range(26)]


@pytest.fixture
def create(tiny, tmp_path):
    """A function: documents and more changes -> prepared rows of them."""

    def prepared(documents, **more):
        path = tmp_path / "text.txt"
        path.write_text("\n".join(documents) + "\n")
        changes = {
            "data.path": str(path),
            "data.validation_rate": 0.5,
            "data.sequence_length": 64,
            "tokenizer.vocabulary_size": 200,
            **{k.replace("__", "."): v for k, v in more.items()},
        }
        return manifest.open_prepared(preparation.prepare(tiny(changes)))

    return prepared


def _documents(least, most, number=100):
    """The words are the rarer, the later they stand in the alphabet."""
    chance = random.Random(least)
    rates = [1 / (n + 1) for n in range(26)]
    return [
        " ".join(chance.choices(WORDS, rates, k=chance.randint(least, most)))
        for _ in range(number)
    ]


@pytest.mark.parametrize("kind", ["word", "wordpiece"])
def test_two_sentences_of_validation_with_a_word_hidden(create, kind):
    documents = _documents(3, 40)
    prepared = create(documents, tokenizer__kind=kind)
    found = prompts.choose(NONE, prepared)
    assert found == prompts.choose(NONE, prepared)
    assert len({*found}) == 2
    hidden = []
    for text in found:
        assert text.count("[MASK]") == 1
        assert "UNK" not in text and "##" not in text
        ids = prepared.tokenizer.encode_prompt(text)
        assert prepared.tokenizer.special.mask in ids
        assert 6 <= len(ids) - prepared.tokenizer.num_wrapping <= 20
        # A word takes its place in one of the documents.
        before, after = (f" {part.strip()} " for part in text.split("[MASK]"))
        words = {
            word
            for word in WORDS
            for document in documents
            if f"{before}{word}{after}".strip() in document
        }
        assert len(words) == 1, text
        hidden += words
    # Two thirds of the text are made of the first ones.
    assert not {*hidden} & {*WORDS[:6]}
    assert len({*hidden}) == 2


def test_short_and_unknown_words_only_where_there_is_nothing_else(create):
    found = prompts.choose(NONE, create(_documents(2, 4)))
    assert len(found) == 2
    assert all(1 < len(text.split()) < 6 for text in found)
    mixed = [*_documents(2, 4), *_documents(8, 9, number=20)]
    found = prompts.choose(NONE, create(mixed))
    assert all(8 <= len(text.split()) for text in found)
    rare = [f"{text} x{n}y" for n, text in enumerate(_documents(7, 12))]
    prepared = create(rare, tokenizer__vocabulary_size=16)
    assert all(
        text.count("[MASK]") == 1 for text in prompts.choose(NONE, prepared)
    )


def test_of_nothing_come_no_prompts(create):
    prepared = create(["one", "two"], data__validation_rate=0.001)
    assert not prepared.roles["validation"].num_rows
    assert prompts.choose(NONE, prepared) == ()
    # Numbers are no words.
    prepared = create([f"1 2 3 4 5 6 {n}" for n in range(20)])
    assert prompts.choose(NONE, prepared) == ()
    # What is configured counts.
    given = schema.EvaluationConfig(sentences=("a [MASK]",))
    assert prompts.choose(given, prepared) == ("a [MASK]",)
