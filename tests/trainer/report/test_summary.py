"""The lines say what the files say, and nothing where they say nothing."""

from trainer.report import summary

EVENTS = [
    {"step": 50, "loss": 6.0, "real_tokens": 1_000.0, "seconds": 3_000.0},
    {"step": 50, "validation_loss": 5.0, "validation_perplexity": 148.4},
    {"step": 50, "event": "fill_ins", "fill_ins": []},
    {"step": 1_100, "loss": 4.0, "real_tokens": 234.0, "seconds": 725.4},
    {"step": 1_100, "validation_loss": 5.5, "validation_perplexity": 244.7},
]


def estimate(value):
    return {"value": value, "low": value - 0.01, "high": value + 0.01}


EVALUATION = {
    "documents": {"evaluated": 25_000},
    "classifier": {
        "accuracy": estimate(0.9),
        "loss": estimate(0.25),
        "macro_f1": estimate(0.91),
        "overconfidence": estimate(0.02),
    },
    "gain_over_control": {"accuracy": estimate(0.05)},
    "classes": [
        {
            "label": f"class {n}",
            "support": 1_000 * n,
            "errors": 3,
            "precision": estimate(0.5),
            "recall": estimate(0.25),
            "f1": estimate(1 / 3),
        }
        for n in range(12)
    ],
    "confused": [
        {"label": "b", "answer": "a", "documents": 7},
        {"label": "a", "answer": "b", "documents": 3},
    ],
}


def test_results_are_added_up_and_come_with_their_ranges():
    lines = summary.lines(
        stages={"pretrain": EVENTS, "finetune": []},
        parameters={"pretrain": 7_842_352},
        evaluation=EVALUATION,
        places={"artifact": "runs/a/export"},
    )
    assert not [name for name in lines if name.startswith("finetune")]
    assert {
        "pretrain: parameters": "7,842,352",
        "pretrain: steps": "1,100",
        "pretrain: real tokens seen": "1,234",
        "pretrain: time in steps": "1:02:05",
        "pretrain: best validation loss": "5.0000 after step 50",
        "pretrain: validation perplexity there": "148.4000",
        "test accuracy": "0.9000 (0.8900 to 0.9100), of 25,000 documents",
        "test macro F1": "0.9100 (0.9000 to 0.9200)",
        "most confused": "b answered a: 7; a answered b: 3",
        "accuracy gained over control": "0.0500 (0.0400 to 0.0600)",
        "artifact": "runs/a/export",
    }.items() <= lines.items()


def test_the_answer_names_what_the_classifier_is_compared_with():
    decided = {"coverage": estimate(0.75), "precision": estimate(0.97)}
    evaluation = {
        **EVALUATION,
        "documents": {"evaluated": 66_000},
        "labels": [*"abcdefg"],
        "parts": {"n-grams": estimate(0.8), "encoder": estimate(0.85)},
        "gain_over_ngrams": {"accuracy": estimate(0.1)},
        "decisions": decided,
    }
    assert summary.answer(evaluation) == [
        "This classifier sorts texts into 7 classes: a, b, c, d, e, f and"
        " others.",
        "It is right on 90.0 % (89.0 to 91.0) of 66,000 test documents, which"
        " it had never seen.",
        "To compare: n-grams alone, 80.0 % (79.0 to 81.0); encoder alone, 85.0"
        " % (84.0 to 86.0); always class 11, 16.7 %.",
        "The encoder gains 10.0 points (9.0 to 11.0) over n-grams alone.",
        "It decides 75.0 % (74.0 to 76.0) of the documents, and 97.0 % (96.0"
        " to 98.0) of the decisions are right.",
    ]


def test_the_answer_of_several_labels_and_of_an_encoder():
    gained = {"accuracy": estimate(0.3), "micro_f1": estimate(0.02)}
    several = {
        **EVALUATION,
        "labels": [*"ab"],
        "multilabel": True,
        "gain_over_ngrams": gained,
    }
    assert summary.answer(several) == [
        "This classifier finds which of 2 classes a text belongs to: a, b.",
        "It is right in every class on 90.0 % (89.0 to 91.0) of 25,000 test"
        " documents, which it had never seen.",
        "The encoder gains 2.0 points of micro F1 (1.0 to 3.0) over n-grams"
        " alone.",
    ]
    (encoder,) = summary.answer({"masked_lm": {"accuracy": 0.334}})
    assert "its first guess is right for 33.4 %" in encoder


def test_what_is_not_there_is_not_said():
    nothing = summary.lines(
        stages={}, parameters={}, evaluation={"masked_lm": {}}, places={}
    )
    assert nothing == {}
    assert summary.answer({"masked_lm": {}}) == []
    assert summary.table({}) == ""
    assert summary.table({"a": "1", "long": "2"}) == "a     1\nlong  2"


def test_a_terminal_shows_ten_classes_and_says_how_many_there_are_more():
    tables = summary.tables(EVALUATION)
    (rows,) = tables.values()
    assert len(rows) == 1 + 12
    text = summary.table({"a": "1"}, tables)
    a, empty, header, first, *_, tenth, more = text.splitlines()
    assert (a, empty, more) == (
        "a  1",
        "",
        "… and 2 more classes in the report",
    )
    assert header.split()[:3] == ["class", "documents", "errors"]
    assert first.startswith("class 0  0          3       0.5000 (0.4900 to")
    assert tenth.startswith("class 9  9,000 ")
    assert summary.tables({"classifier": {}}) == {}


def test_decisions_of_both_splits_are_shown():
    def decided(coverage):
        return {"precision": estimate(0.5), "coverage": estimate(coverage)}

    classes = [
        {"label": "a", "threshold": None, **decided(0.0)},
        {"label": "b", "threshold": 0.75, **decided(0.25)},
    ]
    evaluation = {
        "decisions": {
            "min_precision": 0.45,
            **decided(0.125),
            "classes": classes,
            "on_validation": decided(0.375),
        }
    }
    lines = summary.evaluation_lines(evaluation)
    right = "0.5000 (0.4900 to 0.5100) right, 0.45 wanted; decided: "
    assert lines == {
        "test decisions": right + "0.1250 (0.1150 to 0.1350)",
        "validation decisions": right + "0.3750 (0.3650 to 0.3850)",
    }
    (rows,) = summary.tables(evaluation).values()
    assert [row[:2] for row in rows[1:]] == [("a", "never"), ("b", "0.7500")]


def test_the_best_classifier_by_accuracy_and_pretraining_by_loss():
    events = [
        {"step": 5, "validation_loss": 0.1, "validation_accuracy": 0.5},
        {"step": 9, "validation_loss": 0.3, "validation_accuracy": 0.75},
    ]
    lines = summary.lines(
        stages={"pretrain": events, "finetune": events},
        parameters={},
        evaluation={},
        places={},
        best_by="accuracy",
    )
    assert lines["finetune: best validation accuracy"] == "0.7500 after step 9"
    assert lines["finetune: validation loss there"] == "0.3000"
    assert lines["pretrain: best validation loss"] == "0.1000 after step 5"
