"""An audit finds what was planted: wrong labels, a leak, a contradiction."""

import json
import logging
import random

import pytest

from trainer.report import data
from trainer.run import Run
from trainer.stages import audit

CLASSES = ("cooking", "sport", "travel")
WORDS = [f"{a}{b}{c}" for a in "bdfgk" for b in "aeiou" for c in "lmnrst"]


def records(number, rng, names=CLASSES):
    """Texts of 12 words, some of which are those of the class."""
    return [
        {
            "text": " ".join(
                rng.choice(WORDS[n % len(names) :: 3])
                if rng.random() < 0.6
                else rng.choice(WORDS)
                for _ in range(12)
            ),
            "label": names[n % len(names)],
        }
        for n in range(number)
    ]


@pytest.fixture
def run_on(tiny, one_device, tmp_path):
    """A function: records -> a run on them."""

    def create(some, more=()):
        path = tmp_path / "texts.jsonl"
        path.write_text("".join(json.dumps(one) + "\n" for one in some))
        changes = {
            "data.source": "jsonl",
            "data.path": str(path),
            "data.prepared_dir": str(tmp_path / "prepared"),
            "data.validation_rate": 0.2,
            "tokenizer.vocabulary_size": 400,
        }
        return Run(
            tiny({**changes, **dict(more)}),
            workdir=str(tmp_path / "run"),
            runtime=one_device,
        )

    return create


@pytest.mark.parametrize("names", [CLASSES, CLASSES[:2]])
def test_labels_that_are_wrong_are_found(run_on, names):
    rng = random.Random(0)
    some = records(600, rng, names)
    wrong = {}
    for one in rng.sample(some, 30):
        one["label"] = rng.choice([n for n in names if n != one["label"]])
        wrong[one["text"]] = one["label"]
    run = run_on(some)
    audit.run(run)
    facts = audit.read(run.workdir)
    assert len(facts["suspects"]) == 20
    found = [wrong.get(s["text"]) == s["label"] for s in facts["suspects"]]
    assert sum(found) >= 18
    for suspect in facts["suspects"]:
        assert suspect["answer"] in {*names} - {suspect["label"]}
        assert 1 / len(names) < suspect["probability"] <= 1
    assert 0.85 < facts["accuracy"] < 0.97
    # A tenth is test, which nobody looks at.
    assert 15 < facts["doubted"] < 45 and facts["documents"] < 580


def test_what_gives_a_label_away_and_what_contradicts_itself(run_on):
    rng = random.Random(1)
    some = records(300, rng)
    leaked = 0
    for one in some:
        if one["label"] == "sport" and rng.random() < 0.5:
            one["text"] = "From desk seven: " + one["text"]
            leaked += 1
    first = some[0]["text"]  # Of cooking.
    some.append({"text": first.upper() + "!", "label": "travel"})
    run = run_on(some)
    audit.run(run)
    facts = audit.read(run.workdir)
    [leak] = facts["giveaways"]
    assert leak["words"] == "from desk seven"
    assert (leak["label"], leak["others"]) == ("sport", 0)
    assert 0.8 * leaked <= leak["documents"] <= leaked
    assert 0.4 < leak["share"] < 0.6
    held = {t["text"] for group in facts["contested"] for t in group}
    assert held <= {first, first.upper() + "!"}
    assert run.corpus.survey.near_duplicates["with_several_labels"] == 1


def test_classes_and_the_size_of_validation(run_on):
    rng = random.Random(2)
    some = records(200, rng)
    for one in some:
        if one["label"] == "travel":
            one["text"] += " word" * 30
    run = run_on(some)
    audit.run(run)
    facts = audit.read(run.workdir)
    rows = run.labelled_rows
    assert [one["label"] for one in facts["classes"]] == [*rows.labels]
    for role in ("train", "validation"):
        number = rows.roles[role].num_documents
        assert sum(one[role] for one in facts["classes"]) == number
    lengths = {o["label"]: o["median_tokens"] for o in facts["classes"]}
    assert lengths == {"cooking": 12, "sport": 12, "travel": 42}
    number = rows.roles["validation"].num_documents
    assert facts["validation"] == number
    # So many would do: with them, the gap is the wanted one.
    wanted = facts["validation_wanted"]
    gap = facts["gap"] * (number / max(1, wanted)) ** 0.5
    assert gap == pytest.approx(facts["wanted_gap"], rel=0.05)


@pytest.mark.parametrize("number", [4, 40])
def test_few_documents_and_equal_ones_are_no_fault(run_on, number):
    one, other, *_ = records(2, random.Random(3))
    run = run_on([one, other] * (number // 2), {"data.validation_rate": 0.001})
    audit.run(run)
    assert audit.read(run.workdir)["documents"] >= 2


def test_of_too_much_text_a_part_is_read(run_on, monkeypatch):
    monkeypatch.setattr(audit, "_MOST_WORK", 2_000)
    some = [*records(300, random.Random(4)), {"text": "one", "label": "rare"}]
    run = run_on(some)
    audit.run(run)
    facts = audit.read(run.workdir)
    assert 50 < facts["documents"] < 70
    assert {"rare", *CLASSES} == {one["label"] for one in facts["classes"]}


def test_it_is_made_once_and_said_each_time(run_on, monkeypatch, caplog):
    run = run_on(records(60, random.Random(5)))
    audit.run(run)
    path = f"{run.workdir}/{audit.FILE}"
    made = open(path).read()
    caplog.clear()
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO):
        patch.setattr(audit, "of", None)
        audit.run(run)
    said = [record.getMessage() for record in caplog.records]
    assert [*data.audit_lines(json.loads(made))] == said[: len(said)]
    with open(path, "w") as file:
        file.write("{")
    audit.run(run)
    again = json.loads(open(path).read())
    assert {**again, "seconds": 0} == {**json.loads(made), "seconds": 0}
    assert "is damaged" in caplog.text


def test_of_several_labels_one_that_is_wrong_is_found(run_on):
    """A class too much, a class missing; and documents of all or none."""
    rng = random.Random(2)
    some = []
    for number in range(600):
        names = [n for i, n in enumerate(CLASSES) if number >> i & 1]
        words = [f"{n}{rng.randrange(9)}" for n in names for _ in range(3)]
        words += rng.sample(WORDS, 8)
        some.append({"text": " ".join(words), "label": names})
    wrong = {}
    for one in rng.sample(some, 20):
        name = rng.choice(CLASSES)
        wrong[one["text"]] = sorted(one["label"])
        one["label"] = sorted({*one["label"]} ^ {name})
    some += [{"text": "twice the same text", "label": []}] * 2
    some.append({"text": "twice the same text!", "label": [*CLASSES]})
    run = run_on(some, {"data.validation_rate": 0.1})
    audit.run(run)
    facts = audit.read(run.workdir)
    found = [
        wrong.get(s["text"]) == json.loads(s["answer"])
        for s in facts["suspects"][:12]
    ]
    assert sum(found) >= 11
    assert [one["label"] for one in facts["classes"]] == [*CLASSES]
    for one in facts["classes"]:
        assert 200 < one["train"] + one["validation"] < 320
    contested = {one["label"] for group in facts["contested"] for one in group}
    assert contested in (set(), {"[]", json.dumps([*CLASSES])})
    assert 0.85 < facts["accuracy"] < 0.99
