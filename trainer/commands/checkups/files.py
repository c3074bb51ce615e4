"""What lies on disks and in stores: workdir, text, rows, and masks on them."""

import dataclasses
import pathlib
import shutil
import tempfile
import uuid

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
from trainer import chain, checkpoint, preflight
from trainer.commands.doctor import Case, CheckWarning


def workdir(case: Case) -> str:
    """Whether it can be written, holds no other run, and is not in use.

    Also whether data.prepared_dir can be written. No directory is made.
    """
    for place in (case.workdir, case.config.data.prepared_dir):
        if storage.in_store(place):
            probe = storage.path_of(place) / f".doctor-{uuid.uuid4().hex}"
            probe.write_bytes(b"doctor")
            probe.read_bytes()  # A right of its own there; so is the next.
            probe.unlink()
        else:
            with tempfile.TemporaryFile(dir=_existing(place)) as file:
                file.write(b"doctor")
    for kind, stage in (("encoder", "pretrain"), ("classifier", "finetune")):
        if state := checkpoint.of_stage(case.workdir, stage).last_state():
            made = chain.Artifact.read(state, case.workdir)
            chain.require_same(
                made,
                chain.Artifact.of(kind, case.config, made.made_from),
                workdir=case.workdir,
                allow_changed=case.config.checkpoint.allow_changed,
            )
    if storage.path_of(case.workdir).exists():
        with case.run.locked():
            pass
    return f"{case.workdir} can be written and fits the config"


def space(case: Case) -> str:
    """Whether the checkpoints of a run fit on the disk."""
    config = case.config
    model, width = config.model, config.model.hidden_size
    # At most: the vocabulary may turn out smaller. Biases do not matter.
    tables = config.tokenizer.vocabulary_size * (2 - model.tie_embeddings)
    layers = model.num_layers * (4 * width + 2 * model.intermediate_size)
    parameters = width * (tables + config.data.sequence_length + layers)
    # Besides the newest checkpoints there are the best, the one that is being
    # written, and the export; pretraining and fine-tuning have their own.
    num_checkpoints = 2 * (config.checkpoint.keep_last + 3)
    # The weight and two moments of each parameter, float32.
    needed = 12 * parameters * num_checkpoints
    text = f"about {needed / 1e9:,.1f} GB needed for the checkpoints of a run"
    if storage.in_store(case.workdir):
        return f"{text}; what is free is not checked in a store"
    place = _existing(case.workdir)
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:,.1f} GB free at {place}, {text}"
    if free < needed:
        raise ValueError(
            f"{text}; free some, choose another --workdir, or lower"
            " checkpoint.keep_last."
        )
    return text


def data(case: Case) -> str:
    """Whether the text is there, and its first document can be read."""
    section = case.config.data
    preflight.check(case.config)
    documents = (
        document.raw
        for unit in sources.list_units(section)
        for document in sources.read(section, unit, cleaning.Counts())
    )
    first = next(documents, b"").decode(errors="replace")
    return f"{section.source} is there; it begins {first[:40]!r}"


def rows(case: Case) -> str:
    """Whether prepared rows, if there are any, agree with their manifest."""
    run = case.run
    directory = preparation.locate(
        case.config, run.tokenizer if run.initial else None
    )
    if not storage.complete(directory.parent, directory.name):
        return f"none yet; they will be in {directory}"
    run.require_same("encoder", "pretrain", run.encoder_sources())
    if "labelled" in run.resolved:
        manifest.open_prepared(run.resolved["labelled"])
    if not run.rows.roles["validation"].num_rows:
        raise CheckWarning(
            f"{directory} has no validation rows; training goes without"
            " validation. Give more text, or raise data.validation_rate."
        )
    return f"{directory} is whole"


def masks(case: Case) -> str:
    """Whether sample rows are masked at step 0 as the config says."""
    config, prepared = sample(case, num_rows=32)
    # The same slots are drawn, but nothing in them is replaced.
    unchanged = config.changed(
        {"masking.mask_rate": 0.0, "masking.random_rate": 0.0}
    )
    original, masked = (
        next(pretraining.training_batches(prepared, one).as_numpy_iterator())
        for one in (unchanged, config)
    )
    selected = mask_contract.check(
        original,
        masked,
        is_special=prepared.tokenizer.is_special,
        num_predictions=config.num_predictions,
        rate=float(masking.rate_at(config.masking, tf.constant(0))),
    )
    return f"{selected.sum()} tokens of {len(selected)} sample rows are masked"


def _existing(place: str) -> pathlib.Path:
    """The path, or the nearest one above it that exists."""
    path = pathlib.Path(place)
    return next(p for p in (path, *path.parents) if p.exists())


def sample(
    case: Case, *, num_rows: int = 8
) -> tuple[schema.Config, manifest.Prepared]:
    """A small model, and rows of 200 documents of the sample corpus for it.

    Args:
      case: its config has the kinds of layers and of masks.
      num_rows: of a step.
    """
    config = case.config
    path = pathlib.Path(case.scratch) / "reviews.txt"
    texts = (sample_corpus.review("train", number)[0] for number in range(200))
    path.write_text("\n".join(texts))
    data = schema.DataConfig(
        source="text",
        path=str(path),
        prepared_dir=case.scratch,
        sequence_length=min(64, config.data.sequence_length),
        packing=config.data.packing,
        num_processes=1,
    )
    changes = {
        "tokenizer.vocabulary_size": min(500, config.tokenizer.vocabulary_size),
        "model.num_layers": min(2, config.model.num_layers),
        "model.hidden_size": 32,
        "model.num_heads": 2,
        "model.intermediate_size": 64,
        "optimizer.learning_rate": 0.01,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        "train.global_batch_size": num_rows,
        "train.accumulation_steps": 1,
    }
    small = dataclasses.replace(config, init_from="", data=data)
    small = small.changed(changes)
    return small, manifest.open_prepared(preparation.prepare(small))
