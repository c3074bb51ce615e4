"""Self-training: students that learn from labels and from a teacher.

The teacher is the best classifier so far, with its n-grams. It classifies all
text without a label, and each document gets a label drawn from the resulting
probabilities. A student is an ordinary stage that begins as its teacher did
and learns from ordinary rows of both kinds of documents.
"""

import dataclasses
import functools
import hashlib
import logging
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np

import storage
from configs import schema
from input_pipeline import (
    blocks,
    classification,
    labelled_rows,
    manifest,
    preparation,
    stream,
)
from input_pipeline.documents import Documents
from trainer import chain, checkpoint, modeling, ngrams, trained
from trainer.run import Run
from trainer.stages import combined
from trainer.training import workers

_log = logging.getLogger(__name__)
# In the workdir, because its rows depend on the weights there.
DIRECTORY = "self_training"
# Labelled documents are repeated until there are so many for each unlabelled.
_SHARE_LABELLED = 1 / 3
_ROWS_AT_ONCE = 256


def run(
    run: Run,
    config: schema.Config,
    unlabelled: manifest.Prepared,
    train: Callable[[schema.Config, manifest.Prepared, str], Any],
) -> None:
    """Trains the student of each round.

    `trained.best` takes a student if it validates better than its teacher.

    Args:
      run: with a teacher in its workdir.
      config: of the students, which all have the first seed.
      unlabelled: rows without labels.
      train: trains a stage, given its config, its rows and its name.
    """
    # A student has no stage with a frozen encoder.
    finetune = dataclasses.replace(config.finetune, frozen_epochs=0)
    config = dataclasses.replace(config, finetune=finetune)
    for number in range(1, config.finetune.self_training_rounds + 1):
        rows = _rows(run, unlabelled, number)
        train(config, rows, f"{trained.ROUND}{number}")
        if run.is_chief:
            _compare(run.workdir, number)


def _rows(
    run: Run, unlabelled: manifest.Prepared, number: int
) -> manifest.Prepared:
    """The rows of a student, which are written if they are missing."""
    workdir, prepared = run.workdir, run.labelled_rows
    folder = storage.path_of(workdir) / DIRECTORY
    begun = checkpoint.of_stage(workdir, f"{trained.ROUND}{number}")
    if state := begun.last_state():  # It keeps the labels it began with.
        before = chain.Artifact.read(state, begun.directory).made_from
        name = before["labelled rows"]
        if storage.complete(folder, name):
            return manifest.open_prepared(folder / name)
    # The other workers wait here until the chief has saved the teacher,
    workers.require_equal(run.strategy, {"round": number}, remedy="")
    teacher = trained.teacher(workdir, number)
    assert teacher.checkpoint is not None
    made_from = {
        "labelled rows": prepared.fingerprint,
        "unlabelled rows": unlabelled.fingerprint,
        "classifier": trained.id_of(teacher.checkpoint),
    }
    if teacher.config.finetune.ngrams:
        facts = ngrams.read_facts(workdir)
        made_from["n-grams"] = chain.Artifact.read(facts, workdir).id
    identity = {
        "format": manifest.FORMAT,
        "round": number,
        "made_from": made_from,
    }
    if run.is_chief:
        write = functools.partial(
            _write, teacher, workdir, prepared, unlabelled, number
        )
        manifest.made_once(str(folder), identity, write)
    # and here until it has written the rows.
    directory = manifest.directory_of(str(folder), identity)
    workers.require_equal(run.strategy, {"labels": directory.name}, remedy="")
    return manifest.open_prepared(directory)


def draw(
    probabilities: np.ndarray, documents: Documents, number: int
) -> np.ndarray:
    """Draws a class for each document, int [N], by its probabilities [N, C].

    The draw is a function of the round's number and of the document's tokens.
    These are sorted, because its pieces may stand in a row in any order.
    """
    order = np.lexsort((documents.token_ids, documents.owners))
    sizes = np.bincount(documents.owners, minlength=len(probabilities))
    texts = np.split(documents.token_ids[order], np.cumsum(sizes)[:-1])
    salt = number.to_bytes(8)
    digests = (
        hashlib.blake2b(text.tobytes(), digest_size=8, salt=salt).digest()
        for text in texts
    )
    chances = np.array([int.from_bytes(d) / 2**64 for d in digests])
    below = np.cumsum(probabilities[:, :-1], axis=1) <= chances[:, np.newaxis]
    return below.sum(axis=1)


def _compare(workdir: str, number: int) -> None:
    """Says whether the student of a round is better than its teacher."""
    teacher = trained.teacher(workdir, number).checkpoint
    student = checkpoint.of_stage(workdir, f"{trained.ROUND}{number}").best()
    chosen = trained.teacher(workdir, number + 1).checkpoint
    assert teacher and chosen
    states = [checkpoint.read_state(path) for path in (student, teacher)]
    for name in ("validation_loss", "validation_accuracy"):
        if all(name in state for state in states):
            _log.info(
                "student: %s %.4f, of its teacher %.4f",
                name.replace("_", " "),
                *(state[name] for state in states),
            )
    _log.info(
        "best:    %s, by validation %s: the student of round %d is %s",
        chosen.relative_to(storage.path_of(workdir)),
        states[0]["best_by"],
        number,
        "kept" if chosen == student else "dropped",
    )


def _write(
    teacher: trained.Trained,
    workdir: str,
    prepared: manifest.Prepared,
    unlabelled: manifest.Prepared,
    number: int,
    directory: pathlib.Path,
) -> dict[str, Any]:
    """Writes the rows of a round; returns the facts for the manifest."""
    classifier, _ = combined.create(teacher, prepared, workdir)
    finetune = teacher.config.finetune
    layout = labelled_rows.Layout.of(teacher.config, prepared.documents_per_row)
    known = _stored(prepared, "train")
    own, new = prepared.roles["train"], unlabelled.roles[preparation.UNLABELLED]
    share = _SHARE_LABELLED * new.num_documents / own.num_documents
    repeats = max(1, round(share))
    prepared.tokenizer.save(directory)
    writers = {
        role: blocks.BlockWriter(directory, role, prepared.rows_per_block)
        for role in ("train", "validation")
    }
    writers["validation"].write(_stored(prepared, "validation"))
    read = written = 0
    counts = np.zeros(len(prepared.labels), np.int64)
    answer = combined.create_answer(classifier)
    for rows in stream.stored_rows(unlabelled, preparation.UNLABELLED).batch(
        finetune.global_batch_size
    ):
        batch = labelled_rows.unpack(rows, layout)
        documents = classification.documents_of(batch)
        answers = modeling.probabilities(
            classifier.mixed(answer(batch, documents))
        )
        # As frequent as they are, not as they count.
        answers = classifier.calibrated(answers).numpy()
        drawn = draw(answers, documents, number)
        counts += np.bincount(drawn, minlength=len(counts))
        answered = rows.numpy().copy()
        labels = answered[:, -layout.num_documents :]
        labels[labels > 0] = drawn + 1
        # Labelled rows come in between, because the stream shuffles windows.
        read += len(answered)
        until = repeats * len(known) * read // new.num_rows
        between = known[np.arange(written, until) % len(known)]
        writers["train"].write(np.concatenate([answered, between]))
        written = until
    _log.info(
        "self-training, round %d: %s documents without a label, answered %s;"
        " each labelled one %d times",
        number,
        f"{counts.sum():,}",
        ", ".join(
            f"{label} {n:,}"
            for label, n in zip(prepared.labels, counts, strict=True)
        ),
        repeats,
    )
    roles = {role: writer.close() for role, writer in writers.items()}
    for name in ("num_documents", "num_tokens"):
        known_number = getattr(own, name)
        roles["train"][name] = repeats * known_number + getattr(new, name)
        validated = prepared.roles["validation"]
        roles["validation"][name] = getattr(validated, name)
    return {
        "sequence_length": prepared.sequence_length,
        "row_width": prepared.row_width,
        "documents_per_row": prepared.documents_per_row,
        "dtype": prepared.dtype.str,
        "rows_per_block": prepared.rows_per_block,
        "labels": prepared.labels,
        "roles": roles,
        "report": prepared.report,
    }


def _stored(prepared: manifest.Prepared, role: str) -> np.ndarray:
    """All rows of a role [rows, width], in memory."""
    none = np.zeros([0, prepared.row_width], prepared.dtype)
    found = stream.stored_rows(prepared, role).batch(_ROWS_AT_ONCE)
    return np.concatenate([none, *found.as_numpy_iterator()])
