"""`--mode=prepare`: text to a vocabulary and packed rows, once a corpus."""

import logging
import pathlib
import time
from collections.abc import Sequence
from typing import Any

from configs import schema
from configs.runtime import Runtime
from input_pipeline import manifest, prepare
from trainer.commands import starting_point

_log = logging.getLogger(__name__)
_told: set[pathlib.Path] = set()  # What the log has already.


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: Runtime,
    callbacks: Sequence[Any] = (),
) -> None:
    """Prepares the data of a config and reports what it found."""
    open_prepared(config)


def open_prepared(config: schema.Config) -> manifest.Prepared:
    """The prepared rows of a config, made where they are missing.

    What they are goes to the log, once a process.
    """
    start = time.perf_counter()
    directory = prepare.prepare(config, starting_point.tokenizer(config))
    prepared = manifest.open_prepared(directory)
    if directory not in _told:
        _told.add(directory)
        for line in describe(prepared):
            _log.info("%s", line)
        _log.info("data in %s (%.1f s)", directory, time.perf_counter() - start)
    return prepared


def describe(prepared: manifest.Prepared) -> list[str]:
    """What was read, kept and dropped, for people."""
    report = prepared.report
    read = report["read"]
    dropped = {
        name.removeprefix("bytes_dropped_").replace("_", " "): number
        for name, number in read.items()
        if name.startswith("bytes_dropped_") and number
    }
    lines = [
        f"read {read['documents_read']:,} documents,"
        f" {read['bytes_read']:,} bytes; kept"
        f" {read['documents_kept']:,} and {read['bytes_kept']:,}"
        + "".join(f"; dropped {n:,} bytes: {k}" for k, n in dropped.items())
    ]
    if "invalid utf8" in dropped:
        lines.append(
            "WARNING: the text is not all UTF-8, and what is not is left out;"
            " if it is in another encoding, convert it: iconv -f latin1 -t utf8"
        )
    for number, meaning in (
        (read["documents_dropped_empty"], "left out: no text in them"),
        (read["documents_split"], "made by cutting longer ones in pieces"),
        (
            report["documents_without_label"],
            "without a label: for pretraining alone",
        ),
        (
            report["documents_reserved_for_test"],
            "set aside as test split, by hash",
        ),
        (
            report["documents_repeating_test"],
            "left out: also in test, or of a group there",
        ),
        (
            report["documents_repeating_validation"],
            "left out: also in validation, or of a group there",
        ),
    ):
        if number:
            lines.append(f"{number:,} documents {meaning}")
    lines.append(f"vocabulary: {report['vocabulary_size']:,} tokens")
    for role, rows in report["rows"].items():
        slots = max(1, rows["rows"] * prepared.sequence_length)
        lines.append(
            f"{role}: {rows['documents']:,} documents,"
            f" {rows['tokens_kept']:,} tokens in {rows['rows']:,} rows of"
            f" {prepared.sequence_length}"
            f" ({100 * rows['slots_used'] / slots:.1f} % filled)"
            + (
                f"; cut {rows['tokens_cut']:,} tokens"
                if rows["tokens_cut"]
                else ""
            )
        )
        unknown = 100 * rows["tokens_unknown"] / max(1, rows["tokens_read"])
        lines.append(
            f"{role}: {unknown:.1f} % of the tokens are unknown;"
            f" {rows['documents_long_unread']:,} of"
            f" {rows['documents_long']:,} documents of 20 characters or more"
            " have one or two tokens"
        )
    if not report["rows"]["validation"]["rows"]:
        lines.append(
            "validation: no document fell into it (too few documents, or too"
            " small a data.validation_rate); training goes without"
        )
    return lines
