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
        "f1_of": "“pos”",
        "accuracy": estimate(0.9),
        "loss": estimate(0.25),
        "f1": estimate(0.91),
        "overconfidence": estimate(0.02),
    },
    "gain_over_control": {"accuracy": estimate(0.05)},
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
        "test F1 of “pos”": "0.9100 (0.9000 to 0.9200)",
        "accuracy gained over control": "0.0500 (0.0400 to 0.0600)",
        "artifact": "runs/a/export",
    }.items() <= lines.items()


def test_what_is_not_there_is_not_said():
    nothing = summary.lines(
        stages={}, parameters={}, evaluation={"masked_lm": {}}, places={}
    )
    assert nothing == {}
    assert summary.table({}) == ""
    assert summary.table({"a": "1", "long": "2"}) == "a     1\nlong  2"


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
