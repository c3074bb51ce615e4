"""The text, the rows that were made of it, and the masks on them."""

import dataclasses
import pathlib

import numpy as np
import tensorflow as tf

import storage
from configs import schema
from input_pipeline import (
    cleaning,
    manifest,
    mask_contract,
    masking,
    preparation,
    pretraining,
    sample_corpus,
    sources,
)
from trainer import preflight
from trainer.commands.checkups.check import Case, Imperfect
from trainer.run import Run

_SAMPLE_DOCUMENTS = 200
_SAMPLE_SLOTS, _SAMPLE_WORDS = 64, 500


def data(case: Case) -> str:
    """Whether the text is there, and its first document can be read."""
    section = case.config.data
    case.has_text = False  # Unless all of this works.
    preflight.check(case.config)
    units = sources.list_units(section)
    documents = (
        document.raw
        for unit in units
        for document in sources.read(section, unit, cleaning.Counts())
    )
    first = next(documents, b"").decode(errors="replace")
    case.has_text = True
    return f"{section.source} is there; it begins {first[:40]!r}"


def rows(case: Case) -> str:
    """Whether prepared rows are what their manifest says, if there are any."""
    case.require(case.has_text, "data")
    run = Run(case.config, workdir=case.workdir, runtime=case.runtime)
    directory = preparation.locate(
        case.config, run.tokenizer if run.initial else None
    )
    if not storage.complete(directory.parent, directory.name):
        return (
            f"none yet; --mode=prepare, or training, puts them in {directory}"
        )
    prepared = manifest.open_prepared(directory)
    run.require_same("encoder", "pretrain", run.encoder_sources())
    if "labelled" in run.resolved:
        manifest.open_prepared(run.resolved["labelled"])
    case.prepared = prepared
    counts = {name: role.num_rows for name, role in prepared.roles.items()}
    text = f"{directory} is whole: " + ", ".join(
        f"{number:,} for {name}" for name, number in counts.items()
    )
    if not counts["validation"]:
        raise Imperfect(
            f"{text}; training goes without validation. Give more text, or"
            " raise data.validation_rate."
        )
    return text


def masks(case: Case) -> str:
    """Whether a batch of step 0 is masked as it should be."""
    config, prepared = case.config, case.prepared
    if not prepared:
        config, prepared = sample(case)
    # Draws are functions of the position: the same slots, nothing replaced.
    unchanged = dataclasses.replace(
        config,
        masking=dataclasses.replace(
            config.masking, mask_rate=0.0, random_rate=0.0
        ),
    )
    selected = mask_contract.check(
        _first_batch(prepared, unchanged),
        _first_batch(prepared, config),
        is_special=prepared.tokenizer.is_special,
        num_predictions=config.num_predictions,
        rate=float(masking.rate_at(config.masking, tf.constant(0))),
    )
    kind = "prepared" if case.prepared else "sample"
    return (
        f"{selected.sum()} tokens of {len(selected)} {kind} rows are"
        f" predicted, {config.num_predictions} entries a row"
    )


def sample(case: Case) -> tuple[schema.Config, manifest.Prepared]:
    """The config on a few documents of the sample corpus, and their rows."""
    config = case.config
    path = pathlib.Path(case.scratch) / "reviews.txt"
    if not path.exists():
        texts = (
            sample_corpus.review("train", number)[0]
            for number in range(_SAMPLE_DOCUMENTS)
        )
        path.write_text("\n".join(texts))
    small = dataclasses.replace(
        config,
        init_from="",
        data=schema.DataConfig(
            source="text",
            path=str(path),
            prepared_dir=case.scratch,
            sequence_length=min(_SAMPLE_SLOTS, config.data.sequence_length),
            packing=config.data.packing,
            num_processes=1,
        ),
        tokenizer=dataclasses.replace(
            config.tokenizer,
            vocabulary_size=min(
                _SAMPLE_WORDS, config.tokenizer.vocabulary_size
            ),
            max_documents=0,
        ),
        train=dataclasses.replace(config.train, global_batch_size=32),
    )
    return small, manifest.open_prepared(preparation.prepare(small))


def _first_batch(
    prepared: manifest.Prepared, config: schema.Config
) -> dict[str, np.ndarray]:
    batches = pretraining.training_batches(prepared, config)
    return next(batches.as_numpy_iterator())


CHECKS = (data, rows, masks)
