"""What was read, kept and dropped when the text was prepared, for people."""

from collections.abc import Iterator, Mapping
from typing import Any

_FEW_DOCUMENTS = 20
_MOST_CLASSES = 10  # Of which a line says how many documents they have.
_MOST_SHOWN, _EXCERPT = 5, 120  # Findings of an audit; characters of a text.
_WIDE_GAP = 0.05  # Between accuracies; validation that misses it is small.
# Number of documents in a report -> what is said of them.
_DOCUMENTS = {
    "documents_dropped_empty": "left out: no text in them",
    "documents_split": "made by cutting longer ones in pieces",
    "documents_without_label": "without a label",
    "documents_reserved_for_test": "set aside as test split, by hash",
    "documents_repeating_test": (
        "left out: also in test, exactly or nearly, or of a group there"
    ),
    "documents_repeating_validation": (
        "left out: also in validation, exactly or nearly, or of a group there"
    ),
}
# Key of a report's `near_duplicates` -> what is said of them.
_NEAR_DUPLICATES = {
    "texts": (
        "{texts:,} texts are nearly the same as another one, in {groups:,}"
        " groups, each of which is on one side of every split"
    ),
    "with_several_labels": (
        "{with_several_labels:,} texts are labelled differently where they"
        " stand again, exactly or nearly"
    ),
    "too_large": (
        "WARNING: {too_large:,} texts belong to groups of near-duplicates that"
        " are too large for one side of a split, as those of a template are:"
        " validation and test look easier than new text will be"
    ),
    "skipped": (
        "WARNING: {skipped:,} texts are too many to be compared; there may be"
        " near-duplicates among them on several sides of a split"
    ),
}


def lines(report: dict[str, Any], sequence_length: int) -> list[str]:
    """Of rows for pretraining, from the report of their manifest."""
    counts = {**report["read"], **report}
    dropped = {
        name.removeprefix("bytes_dropped_").replace("_", " "): number
        for name, number in report["read"].items()
        if name.startswith("bytes_dropped_") and number
    }
    lines = [
        f"read {counts['documents_read']:,} documents,"
        f" {counts['bytes_read']:,} bytes; kept"
        f" {counts['documents_kept']:,} and {counts['bytes_kept']:,}"
        + "".join(f"; dropped {n:,} bytes: {k}" for k, n in dropped.items())
    ]
    if "invalid utf8" in dropped:
        lines.append(
            "WARNING: the text is not all UTF-8, and what is not is left out;"
            " if it is in another encoding, convert it: iconv -f latin1 -t utf8"
        )
    lines += [
        f"{counts[name]:,} documents {meaning}"
        for name, meaning in _DOCUMENTS.items()
        if counts[name]
    ]
    # Older rows have none.
    lines += near_duplicate_lines(report.get("near_duplicates", {}))
    lines.append(f"vocabulary: {report['vocabulary_size']:,} tokens")
    for role, rows in report["rows"].items():
        filled = rows["slots_used"] / max(1, rows["rows"] * sequence_length)
        cut = (
            f"; cut {rows['tokens_cut']:,} tokens" if rows["tokens_cut"] else ""
        )
        unknown = rows["tokens_unknown"] / max(1, rows["tokens_read"])
        lines += [
            f"{role}: {rows['documents']:,} documents,"
            f" {rows['tokens_kept']:,} tokens in {rows['rows']:,} rows of"
            f" {sequence_length} ({100 * filled:.1f} % filled){cut}",
            f"{role}: {100 * unknown:.1f} % of the tokens are unknown;"
            f" {rows['documents_long_unread']:,} of"
            f" {rows['documents_long']:,} documents of 20 characters or more"
            " cannot be split into words",
        ]
    if not report["rows"]["validation"]["rows"]:
        lines.append(
            "validation: no document fell into it (too few documents, or too"
            " small a data.validation_rate); training goes without"
        )
    return lines


def near_duplicate_lines(found: Mapping[str, int]) -> Iterator[str]:
    """How many there are, and what became of them."""
    for name, line in _NEAR_DUPLICATES.items():
        if found.get(name):
            yield line.format(**found)


def labelled_lines(
    report: dict[str, Any], *, sequence_length: int, pieces_per_row: int
) -> Iterator[str]:
    """Of rows for fine-tuning, from the report of their manifest."""
    for role, rows in report.items():
        labels = [f"{name} {n:,}" for name, n in rows["labels"].items()]
        if len(labels) > _MOST_CLASSES:
            labels[_MOST_CLASSES:] = [f"{len(labels) - _MOST_CLASSES} more"]
        line = (
            f"{role}: {rows['documents']:,} documents in {rows['rows']:,} rows"
            f" ({100 * rows['slots_used'] / max(1, rows['slots']):.1f} %"
            f" filled), {', '.join(labels)}"
        )
        if rows["tokens_cut"]:
            line += (
                f"; cut {rows['tokens_cut']:,} tokens: a document has at most"
                f" {pieces_per_row} pieces of {sequence_length}"
                " (finetune.pieces_per_row)"
            )
        yield line


def warnings(report: dict[str, Any]) -> Iterator[str]:
    """What is too few to be learned or judged, from the same report."""
    if kept := report["train"]["labels_kept"]:
        yield (
            "kept in training, because their class has no other document:"
            f" {', '.join(map(repr, kept[:20]))}; neither validation nor test"
            " says how well they are learned"
        )
    number = sum(rows["documents"] for rows in report.values())
    if number < _FEW_DOCUMENTS:
        yield (
            f"{number} labelled documents for training and validation: so few"
            " that validation cannot tell a good classifier from a bad one"
        )


def class_lines(audit: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Class by class, what an audit says of its documents."""
    for one in audit["classes"]:
        yield (
            one["label"],
            f"{one['train']:,} documents, and {one['validation']:,} for"
            f" validation; of {one['median_tokens']:,.0f} tokens (median),"
            f" 95 % of at most {one['long_tokens']:,.0f}",
        )


def audit_lines(
    audit: Mapping[str, Any], *, most: int = _MOST_SHOWN
) -> Iterator[str]:
    """What an audit found: `most` findings of a kind; no labels in doubt."""
    yield (
        "n-grams of other documents answer"
        f" {100 * audit['accuracy']:.1f} % of {audit['documents']:,} documents"
        f" as they are labelled; {audit['doubted']:,} labels are in doubt"
    )
    gap = audit["gap"]
    line = (
        f"validation has {audit['validation']:,} documents: there, classifiers"
        f" are told apart from {100 * gap:.1f} points of accuracy on;"
        f" {audit['validation_wanted']:,} documents would do for"
        f" {100 * audit['wanted_gap']:.0f} points"
    )
    yield f"WARNING: {line}" if gap > _WIDE_GAP else line
    for one in audit["giveaways"][:most]:
        yield (
            f"“{one['words']}” gives {one['label']!r} away: it is in"
            f" {100 * one['share']:.0f} % of its documents"
            f" ({one['documents']:,}) and in {one['others']:,} others; remove"
            " it if new text will not have it"
        )
    for group in audit["contested"][:most]:
        names = sorted({one["label"] for one in group})
        yield (
            f"labelled {' and '.join(map(repr, names))}, although nearly the"
            f" same: {group[0]['text'][:_EXCERPT]}"
        )


def suspect_lines(audit: Mapping[str, Any]) -> Iterator[str]:
    """The labels in doubt, the worst first."""
    for one in audit["suspects"]:
        yield (
            f"in doubt: labelled {one['label']!r}, answered {one['answer']!r}"
            f" with {100 * one['probability']:.1f} %:"
            f" {one['text'][:_EXCERPT]}"
        )
