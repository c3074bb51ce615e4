"""`--mode=export`: the best checkpoints to an artifact that takes strings."""

import dataclasses
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

import storage
from configs import runtime as runtime_lib
from configs import schema
from input_pipeline import manifest, strings
from trainer import checkpoint, modeling
from trainer import workdir as workdir_lib
from trainer.commands import combined, finetune, prepare
from trainer.modeling import interchange
from trainer.serving import best, card, loading, saved_model
from trainer.training import metrics

_log = logging.getLogger(__name__)
# Stage -> what config.json calls its data, and the fingerprint of that.
_DATA = {
    "pretrain": ("prepared", "fingerprint"),
    "finetune": ("labelled", "labelled_fingerprint"),
}
_KERAS_FILES = {"classify": "model.keras", "fill_mask": "masked_lm.keras"}


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: runtime_lib.Runtime,
    callbacks: Sequence[Any] = (),
) -> None:
    """Writes `<workdir>/export`, which replaces an older one when complete.

    The classifier is the best of checkpoints/finetune; what fills in masks
    is the best of checkpoints/pretrain, of the workdir that the run began
    from where this one has none. What has not been trained is left out.

    Raises:
      ValueError: nothing has been trained there, or its text has changed.
    """
    recorded = workdir_lib.read(workdir)
    if not recorded:
        raise ValueError(
            f"{workdir} holds no run (no config.json); train first, or give"
            " the --workdir of a run."
        )
    with workdir_lib.locked(workdir):
        final = storage.path_of(workdir) / loading.DIRECTORY
        storage.remove_unfinished(workdir, loading.DIRECTORY)
        facts: dict[str, Any] = {}
        with storage.new_directory(
            final, facts=facts, replace=True
        ) as temporary:
            facts |= _write_all(config.export, workdir, temporary)
    _log.info("export: %s answers %s", final, ", ".join(facts["signatures"]))
    for name in sorted({*_KERAS_FILES} - {*facts["signatures"]}):
        stage = "finetune" if name == "classify" else "pretrain"
        _log.info("        without %s: no --mode=%s here", name, stage)
    if left_out := [f"{k}/" for k, why in facts["folders"].items() if why]:
        _log.info(
            "        without %s: this is no BERT, see `folders` in %s",
            " and ".join(left_out),
            final / "manifest.json",
        )
    _log.info("ask it: --mode=predict --config.predict.export_dir=%s", final)


def _write_all(
    export: schema.ExportConfig, workdir: str, directory: pathlib.Path
) -> dict[str, Any]:
    """Writes every form; returns the facts for the manifest."""
    tuned, pretrained = best.runs(workdir)
    main = tuned or pretrained
    if not main:
        raise ValueError(
            f"{workdir} has no checkpoint to export; train first, with"
            " --mode=pretrain or --mode=finetune."
        )
    data = {
        source.stage: _open_data(source, workdir)
        for source in (pretrained, tuned)
        if source
    }
    classifier = masked_lm = None
    validation: dict[str, Any] = {}
    if tuned:
        classifier, validation = combined.create(
            tuned, data[tuned.stage], workdir
        )
    if pretrained:
        assert pretrained.checkpoint is not None
        masked_lm = modeling.TextMaskedLM(
            **combined.common(pretrained, data[pretrained.stage]),
            **dataclasses.asdict(export),
        )
        checkpoint.read_weights(pretrained.checkpoint, masked_lm.variables)
    signatures = saved_model.save(
        directory, classifier=classifier, masked_lm=masked_lm
    )
    models = {
        _KERAS_FILES[name]: model
        for name, model in (("classify", classifier), ("fill_mask", masked_lm))
        if model is not None
    }
    for file, model in models.items():
        model.save(directory / file)
    left_out = {}
    if masked_lm:
        left_out = interchange.write_folders(
            directory,
            masked_lm.masked_lm,
            masked_lm.codec.vocabulary,
            kind=masked_lm.codec.kind,
        )
    config = dataclasses.replace(main.config, export=export)
    tokenizer = data[main.stage].tokenizer
    facts = {
        "format": loading.FORMAT,
        "signatures": signatures,
        # Folders for other libraries: why each is missing; "" = it is there.
        "folders": left_out,
        "mask": strings.MASK,
        "embed_stage": "pretrained" if masked_lm else "fine-tuned",
        "labels": classifier.labels if classifier else [],
        "validation": validation,
        "max_pieces": classifier.max_pieces if classifier else 0,
        "max_masks": masked_lm.max_masks if masked_lm else 0,
        "top_k": masked_lm.top_k if masked_lm else 0,
        "tokenizer": tokenizer.kind,
        "vocabulary_size": tokenizer.vocabulary_size,
        "sequence_length": config.data.sequence_length,
        "hidden_size": config.model.hidden_size,
        "parameters": {
            file: model.count_params() for file, model in models.items()
        },
        "fingerprints": {stage: d.fingerprint for stage, d in data.items()},
        "reports": {stage: d.report for stage, d in data.items()},
        "checkpoints": best.states(workdir),
        "config": config.to_dict(),
        "versions": workdir_lib.read(workdir)["versions"],
    }
    text = card.write_card(facts, last_validation(workdir))
    (directory / card.FILE).write_text(text, encoding="utf-8")
    return facts


def last_validation(workdir: str) -> dict[str, dict[str, float]]:
    """By stage: the numbers of the last event with a validation loss."""
    found = {}
    for stage in _DATA:
        for event in metrics.read(workdir, stage):
            if "validation_loss" in event:
                found[stage] = {
                    name: value
                    for name, value in event.items()
                    if name == "step" or name.startswith("validation_")
                }
    return found


def _open_data(source: best.Run, workdir: str) -> manifest.Prepared:
    """The rows of a stage and their tokenizer; made anew where gone."""
    name, key = _DATA[source.stage]
    directory, fingerprint = source.resolved[name], source.resolved[key]
    if storage.path_of(directory).is_dir():
        return manifest.open_prepared(directory)
    if source.stage == "finetune":
        prepared = finetune.open_labelled(source.config, workdir)
    else:
        prepared = prepare.open_prepared(source.config)
    if prepared.fingerprint != fingerprint:
        raise ValueError(
            f"The run was trained on data {fingerprint}, but {directory} is"
            f" gone and the source now gives {prepared.fingerprint}; restore"
            " one of them."
        )
    return prepared
