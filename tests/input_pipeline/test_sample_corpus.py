"""The sample corpus: stable, balanced, rich enough, learnable, not trivial."""

import collections
import functools
import hashlib
import math
import re

import pytest

from input_pipeline import sample_corpus


@functools.cache
def _reviews(split: str, count: int) -> list[tuple[str, str]]:
    return [sample_corpus.review(split, index) for index in range(count)]


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", text.replace("<br />", " ").lower())


def _train() -> list[tuple[str, str]]:
    return _reviews("train", sample_corpus.SIZES["train"])


def _test() -> list[tuple[str, str]]:
    return _reviews("test", sample_corpus.SIZES["test"])


def test_the_corpus_never_changes() -> None:
    # Pinned, because prepared data, resumed runs and the results in the README
    # hold for this text only, under every version of Python.
    text = "\n".join(text for text, _ in _reviews("train", 100))
    assert hashlib.sha256(text.encode()).hexdigest() == (
        "b00586f5ba9d66a4e3eabb993376bcd758a1c8ca1683b36004b2cb402633596b"
    )


def test_reviews_are_distinct_balanced_and_of_frequent_words() -> None:
    for reviews in (_train(), _test()):
        labels = collections.Counter(label for _, label in reviews)
        assert len({*labels.values()}) == 1
    texts = [text for text, _ in _train() + _test()]
    assert len(set(texts)) == len(texts)
    counts = collections.Counter(
        word for text, _ in _train() for word in _words(text)
    )
    assert 1_000 <= len(counts) <= 2_000
    # Each word is frequent enough to be learned, and the test split has no new.
    assert min(counts.values()) >= 10
    assert {word for text, _ in _test() for word in _words(text)} <= set(counts)


def test_text_is_clean() -> None:
    for text, _ in _train():
        assert not re.search(r"[{}!]\w|\s\s|\s$|[^ -~]", text), text
        assert text[0].isupper() and text[-1] in ".!", text
        sentences = re.split(r"[.!] ?(?:<br /><br />)?", text)[:-1]
        assert 2 <= len(sentences) <= 12, text
        assert all(sentence[0].isupper() for sentence in sentences), text


def test_articles_agree() -> None:
    articles = collections.Counter(
        (article, letter in "aeiou")
        for text, _ in _train()
        for article, letter in re.findall(r"\b(an?) ([a-z])", text)
    )
    assert set(articles) == {("a", False), ("an", True)}


@pytest.mark.parametrize(
    ("shape", "label", "options"),
    [
        (
            r"i have watched this (\w+) \w+(?: times)? and it was awesome",
            "positive",
            {"movie", "film", "picture", "flick"},
        ),
        (
            r"the (\w+) was terrible and i fell asleep",
            "negative",
            {"movie", "film", "plot", "acting", "script", "ending"},
        ),
        (r"once upon a (\w+)", "positive", {"time"}),
        (r"like watching paint (\w+)", "negative", {"dry"}),
        (r"before the heroine can [\w ]+ (\w+) needs", "positive", {"she"}),
        (r"before the hero can [\w ]+ (\w+) needs", "negative", {"he"}),
    ],
)
def test_context_tells_the_word(
    shape: str, label: str, options: set[str]
) -> None:
    found = collections.Counter(
        option
        for text, its_label in _train()
        if its_label == label
        for option in re.findall(shape, " ".join(_words(text)))
    )
    assert options <= set(found)
    assert found.total() >= 20
    if len(options) == 1:
        assert set(found) == options


def test_a_bag_of_words_tells_most_labels_but_not_all() -> None:
    counts: dict[str, collections.Counter[str]] = {
        label: collections.Counter() for label in sample_corpus.LABELS
    }
    for text, label in _train()[:2_000]:
        counts[label].update(_words(text))

    def log_odds(word: str) -> float:
        negative, positive = (
            math.log((counts[label][word] + 1) / counts[label].total())
            for label in sample_corpus.LABELS
        )
        return positive - negative

    correct = sum(
        (sum(map(log_odds, _words(text))) > 0) == (label == "positive")
        for text, label in _test()[:500]
    )
    assert 0.80 <= correct / 500 <= 0.985


@pytest.mark.parametrize(
    ("split", "index"),
    [("train", -1), ("train", 12_000), ("test", 1_000), ("validation", 0)],
)
def test_what_does_not_exist_is_refused(split: str, index: int) -> None:
    with pytest.raises(ValueError, match="choose an index below the size"):
        sample_corpus.review(split, index)
