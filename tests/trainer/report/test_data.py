"""What is said of prepared text."""

from trainer.report import data


def test_what_did_not_happen_is_left_out():
    rows = {
        "rows": 2,
        "documents": 3,
        "tokens_kept": 30,
        "tokens_cut": 2,
        "slots_used": 30,
        "tokens_read": 32,
        "tokens_unknown": 4,
        "documents_long": 1_200,
        "documents_long_unread": 1,
    }
    read = dict.fromkeys(
        (
            "documents_read",
            "bytes_read",
            "documents_kept",
            "bytes_kept",
            "documents_dropped_empty",
            "documents_split",
            "bytes_dropped_control",
        ),
        0,
    )
    report = {
        "read": read,
        "documents_reserved_for_test": 0,
        "documents_repeating_validation": 7,
        "documents_repeating_test": 4,
        "documents_without_label": 1_500,
        "vocabulary_size": 1234,
        "rows": {"train": rows, "validation": rows},
    }
    assert data.lines(report, 16) == [
        "read 0 documents, 0 bytes; kept 0 and 0",
        "1,500 documents without a label",
        "4 documents left out: also in test, or of a group there",
        "7 documents left out: also in validation, or of a group there",
        "vocabulary: 1,234 tokens",
        "train: 3 documents, 30 tokens in 2 rows of 16 (93.8 % filled);"
        " cut 2 tokens",
        "train: 12.5 % of the tokens are unknown; 1 of 1,200 documents of 20"
        " characters or more have one or two tokens",
        "validation: 3 documents, 30 tokens in 2 rows of 16 (93.8 % filled);"
        " cut 2 tokens",
        "validation: 12.5 % of the tokens are unknown; 1 of 1,200 documents of"
        " 20 characters or more have one or two tokens",
    ]
