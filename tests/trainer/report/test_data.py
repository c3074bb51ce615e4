"""What is said of prepared labelled text; of any text: test_prepare.py."""

from trainer.report import data


def rows(**labels):
    number = sum(labels.values())
    return {
        "documents": number,
        "rows": 2,
        "slots": 32,
        "slots_used": 24,
        "tokens_cut": 2,
        "labels": labels,
        "labels_kept": ["rare"],
    }


def test_few_classes_are_counted_and_cut_tokens_named():
    report = {"train": rows(often=1_001, rare=1)}
    report["validation"] = rows(**{f"c{n}": 1 for n in range(12)})
    one, two = data.labelled_lines(report, sequence_length=16, pieces_per_row=4)
    assert one == (
        "train: 1,002 documents in 2 rows (75.0 % filled), often 1,001, rare 1;"
        " cut 2 tokens: a document has at most 4 pieces of 16"
        " (finetune.pieces_per_row)"
    )
    assert "c9 1, 2 more" in two


def test_what_cannot_be_judged_is_warned_of():
    report = {"train": rows(often=6, rare=1), "validation": rows(often=1)}
    alone, few = data.warnings(report)
    assert "their class has no other document: 'rare'; neither" in alone
    assert "8 labelled documents" in few and "so few that validation" in few
