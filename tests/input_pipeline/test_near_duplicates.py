"""Near-duplicates are found, little else is, and none is on two sides."""

import collections
import json
import random

import numpy as np
import pytest

from input_pipeline import (
    cleaning,
    held_out,
    manifest,
    near_duplicates,
    preparation,
    reading,
    roles,
    sources,
    survey,
)
from input_pipeline.corpus import Corpus
from tests.input_pipeline import conftest as tiny

WORDS = [f"{a}{b}" for a in "bcdfghklmnprstvw" for b in "aeiou"]
WORDS = [f"{one}{other}" for one in WORDS for other in WORDS]


def texts(number, rng, *, fewest=15, most=60):
    """Of different words, some of which are frequent."""
    return [
        " ".join(
            WORDS[int(len(WORDS) * rng.random() ** 3)]
            for _ in range(rng.randint(fewest, most))
        )
        for _ in range(number)
    ]


def with_another_word(text, rng):
    """The text with one word changed, in other case, blanks, punctuation."""
    words = text.split()
    words[rng.randrange(len(words))] = "changed"
    spelled = [rng.choice((str, str.upper, str.title))(word) for word in words]
    return rng.choice((" ", "  ", ", ")).join(spelled) + rng.choice(("", "!"))


def find(some, decisive=None):
    marks, signatures = [], bytearray()
    is_decisive = []
    for text, wanted in zip(some, decisive or [True] * len(some), strict=True):
        if found := near_duplicates.signature(text):
            marks.append(roles.marks(text, "")[0])
            signatures += found
            is_decisive.append(wanted)
    return near_duplicates.find(
        np.array(marks, np.uint64),
        np.frombuffer(signatures, np.uint8),
        np.array(is_decisive, bool),
    )


def group_of(text, found):
    return found.groups.get(roles.marks(text, "")[0])


def test_200_planted_among_20_000_are_found_and_little_else():
    rng = random.Random(7)
    some = texts(19_800, rng)
    planted = [(text, with_another_word(text, rng)) for text in some[:200]]
    found = find([*some, *(copy for _, copy in planted)])
    pairs = [{group_of(text, found) for text in pair} for pair in planted]
    right = sum(len(pair) == 1 and None not in pair for pair in pairs)
    assert right >= 195
    assert len(found.groups) - 2 * right <= 5


@pytest.mark.parametrize(
    ("shared", "expected"),
    # Of 40 words each; of a third of the first pairs, some band is equal.
    [(30, range(3)), (38, range(97, 101))],
)
def test_four_of_five_words_must_be_shared(shared, expected):
    rng = random.Random(9)
    some = []
    for _ in range(100):
        words = rng.sample(WORDS, 80 - shared)
        some += [" ".join(words[:40]), " ".join(words[-40:])]
    assert find(some).num_groups in expected


def test_the_order_of_the_texts_and_repetitions_decide_nothing():
    rng = random.Random(8)
    some = texts(60, rng)
    some += [with_another_word(text, rng) for text in some[:20]]
    found = find(some)
    assert found.num_groups == 20
    assert find([*some[::-1], *some]) == found


@pytest.mark.parametrize(
    ("one", "other", "are_alike"),
    [
        # Of few words, each counts.
        ("the film was good", "the film was bad", False),
        ("a b c d e f g", "a b c d e f g g!", False),
        ("a b c d e f g h", "a b c d e f g h i", True),
        # Only different words count.
        ("a b c d " * 20, "a b c e " * 20, False),
        # Characters are words where no blanks set these apart.
        (
            "我觉得这部电影非常好看也很感人",
            "我觉得这部电影非常好看也很动人",
            True,
        ),
        (
            "我觉得这部电影非常好看也很感人",
            "昨天的饭菜太咸而且服务员不理我",
            False,
        ),
    ],
)
def test_what_is_nearly_the_same(one, other, are_alike):
    assert bool(find([one, other]).groups) == are_alike


@pytest.mark.parametrize(("number", "are_kept"), [(20, True), (21, False)])
def test_a_chain_or_a_template_is_not_kept_together(number, are_kept):
    fixed = "your order has left our house today and will arrive soon nr"
    some = [f"{fixed} {n}" for n in range(number)]
    found = find([*some, *texts(200, random.Random(1))])
    assert found.num_groups == are_kept
    assert len(found.groups) == number * are_kept
    assert found.too_large == number * (not are_kept)


def test_text_that_decides_nothing_is_compared_with_what_does():
    rng = random.Random(9)
    one, other = texts(2, rng)
    copies = [with_another_word(one, rng), with_another_word(other, rng)]
    found = find([one, other, *copies], [True, False, False, False])
    assert {*found.groups} == {roles.marks(t, "")[0] for t in (one, copies[0])}
    assert not find([one, copies[0]], [False, False]).groups


def test_of_too_many_those_that_decide_are_compared(monkeypatch):
    monkeypatch.setattr(near_duplicates, "MOST_TEXTS", 2)
    some = ["a b c d e f g h", "a b c d e f g h i", "a b c d e f g h j"]
    assert find(some[:2]).skipped == 0
    found = find(some, [True, False, True])
    assert (len(found.groups), found.skipped) == (2, 1)
    assert find(some) == near_duplicates.Found(skipped=3)


def create(tmp_path, number=200, **changes):
    """A config, and pairs that are nearly the same, both in data.path."""
    rng = random.Random(3)
    pairs = [
        (text, with_another_word(text, rng)) for text in texts(number, rng)
    ]
    records = [
        {"text": text, "label": "no yes".split()[n % 2]}
        for n, pair in enumerate(pairs)
        for text in pair
    ]
    rng.shuffle(records)
    tiny.write(tmp_path / "reviews.jsonl", records)
    return tiny.labelled_config(tmp_path, **changes), pairs


def roles_of(config):
    """Text -> role, of everything that is read."""
    corpus = Corpus(config.data)
    return {
        found.text: found.role
        for unit in corpus.units
        for found in reading.documents(
            config, unit, corpus.survey.roles, cleaning.Counts()
        )
    }


def test_they_are_on_one_side_of_every_split(tmp_path):
    config, pairs = create(tmp_path)
    found = roles_of(config)
    sides = [{found[text] for text in pair} for pair in pairs]
    assert {*map(len, sides)} == {1}
    counts = collections.Counter(role for side in sides for role in side)
    assert 110 < counts["train"] < 170
    assert counts["validation"] > 20 and counts["test"] > 8
    # What is evaluated is that test.
    examples = held_out.examples(Corpus(config.data), held_out.Counts())
    assert {e.raw.decode() for e in examples} == {
        text for text, role in found.items() if role == "test"
    }
    off = tiny.labelled_config(tmp_path, **{"data.near_duplicates": False})
    found = roles_of(off)
    assert sum(found[one] != found[other] for one, other in pairs) > 40


def test_those_of_a_file_for_validation_or_test_are_left_out(tmp_path):
    config, pairs = create(tmp_path, 60)
    paths = {}
    for name, part in {"validation": pairs[:20], "test": pairs[15:30]}.items():
        records = [{"text": one, "label": "no"} for one, _ in part]
        path = tiny.write(tmp_path / f"{name}.jsonl", records)
        paths[f"data.{name}_path"] = str(path)
    records = [{"text": other} for _, other in pairs]
    path = tiny.write(tmp_path / "more.jsonl", records)
    # Only the others stand in the text itself, with labels and without.
    tiny.write(
        tmp_path / "reviews.jsonl",
        [
            {"text": other, "label": "no yes".split()[n % 2]}
            for n, (_, other) in enumerate(pairs)
        ],
    )
    config = tiny.labelled_config(
        tmp_path, **paths, **{"data.unlabeled_path": str(path)}
    )
    found = roles_of(config)
    assert [found[one] for one, _ in pairs[15:30]] == ["test"] * 15
    others = [found[other] for _, other in pairs]
    assert others[:15] == ["repeats validation"] * 15
    assert others[15:30] == ["repeats test"] * 15
    assert others[30:] == ["train"] * 30
    report = manifest.open_prepared(preparation.prepare(config)).report
    assert report["documents_repeating_test"] == 2 * 15 + 5
    assert report["documents_repeating_validation"] == 2 * 15


def test_it_does_not_depend_on_the_units_of_work(tmp_path, monkeypatch):
    config, _ = create(tmp_path)
    [whole] = sources.list_units(config.data)
    one = survey.of(config.data, [whole], keep=False)
    monkeypatch.setattr("input_pipeline.text_files.UNIT_BYTES", 10_000)
    units = sources.list_units(config.data)
    assert len(units) > 2
    stored = survey.of(config.data, units)
    assert survey.of(config.data, units) == stored == one
    assert one.near_duplicates["texts"] == 400
    assert one.near_duplicates["groups"] == 200


def test_roles_without_any_are_those_of_older_versions(tmp_path):
    tiny.write(tmp_path / "reviews.jsonl", tiny.reviews(50))
    config = tiny.labelled_config(tmp_path)
    facts = Corpus(config.data).survey.roles.to_dict()
    assert {*facts} == {
        *("validation_rate", "test_rate", "has_labels"),
        *("kept", "in_test", "in_validation"),
    }


def test_several_labels_are_counted(tmp_path):
    rng = random.Random(4)
    some = texts(12, rng)
    records = [{"text": text, "label": "no"} for text in some]
    near, same = with_another_word(some[0], rng), some[1].upper()
    agreed = with_another_word(some[2], rng)
    records += [
        {"text": near, "label": "yes"},
        {"text": same, "label": "yes"},
        {"text": agreed, "label": "no"},
    ]
    tiny.write(tmp_path / "reviews.jsonl", records)
    known = Corpus(tiny.labelled_config(tmp_path).data).survey
    assert known.near_duplicates["with_several_labels"] == 2
    assert known.near_duplicates["groups"] == 2
    json.dumps(known.near_duplicates)
