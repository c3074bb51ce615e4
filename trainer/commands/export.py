"""`--mode=export`: the best checkpoints to an artifact that takes strings."""

import dataclasses
import logging
import pathlib
from typing import Any

import storage
from configs import runtime as runtime_lib
from input_pipeline import manifest, strings
from input_pipeline import tokenizer as tokenizer_lib
from trainer import chain, checkpoint, modeling, ngrams, trained
from trainer import workdir as workdir_lib
from trainer.modeling import interchange
from trainer.run import Run
from trainer.serving import card, loading, saved_model
from trainer.stages import combined
from trainer.training import metrics

_log = logging.getLogger(__name__)
# Stage -> what config.json calls the directory of its rows.
_ROWS = {"pretrain": "prepared", "finetune": "labelled"}
_NUM_STRONGEST = 10  # n-grams of a class, for the report.


def run(run: Run) -> None:
    """Writes `<workdir>/export`, which replaces an older one when complete.

    The classifier is the best of checkpoints/finetune; what fills in masks
    is the best of checkpoints/pretrain, of the workdir that the run began
    from where this one has none. What has not been trained is left out.

    Raises:
      ValueError: nothing has been trained there, or its text has changed.
    """
    workdir = run.workdir
    if not workdir_lib.read(workdir):
        raise ValueError(
            f"{workdir} holds no run (no config.json); train first, or give"
            " the --workdir of a run."
        )
    final = storage.path_of(workdir) / loading.DIRECTORY
    facts: dict[str, Any] = {}
    with run.locked():
        storage.remove_unfinished(workdir, loading.DIRECTORY)
        with storage.new_directory(
            final, facts=facts, replace=True
        ) as temporary:
            facts |= _write_all(run, temporary)
            facts |= wanted(run).to_dict()
        run.forget_export()
    _log.info("export: %s answers %s", final, ", ".join(facts["signatures"]))
    for name, stage in (("classify", "finetune"), ("fill_mask", "pretrain")):
        if name not in facts["signatures"]:
            _log.info("        without %s: no --mode=%s here", name, stage)
    if left_out := [f"{k}/" for k, why in facts["folders"].items() if why]:
        _log.info(
            "        without %s: this is no BERT, see `folders` in %s",
            " and ".join(left_out),
            final / "manifest.json",
        )
    _log.info("ask it: --mode=predict --config.predict.export_dir=%s", final)


def wanted(run: Run) -> chain.Artifact:
    """What an export would be now."""
    return chain.Artifact.of("export", run.config, trained.sources(run.workdir))


def is_done(run: Run) -> bool:
    """Whether the workdir has the export that `run` would write."""
    if not (storage.path_of(run.workdir) / loading.DIRECTORY).is_dir():
        return False
    try:
        facts = run.open_export().facts
    except ValueError:  # Damaged, or of an older version.
        return False
    return facts.get("artifact", {}).get("id") == wanted(run).id


def _write_all(run: Run, directory: pathlib.Path) -> dict[str, Any]:
    """Writes every form; returns the facts for the manifest."""
    export, workdir = run.config.export, run.workdir
    tuned, pretrained = trained.best(workdir)
    if tuned:
        # It is the export's own: the classifier does not depend on it.
        own = {"finetune.min_precision": run.config.finetune.min_precision}
        tuned = dataclasses.replace(tuned, config=tuned.config.changed(own))
    main = tuned or pretrained
    if not main:
        raise ValueError(
            f"{workdir} has no checkpoint to export; train first, with"
            " --mode=pretrain or --mode=finetune."
        )
    sources = [source for source in (pretrained, tuned) if source]
    data = {source.stage: _open_rows(run, source) for source in sources}
    models: dict[str, Any] = {}
    classifier = masked_lm = None
    validation, left_out = dict[str, Any](), dict[str, str]()
    if tuned:
        classifier, validation = combined.create(
            tuned, data[tuned.stage], workdir
        )
        models["model.keras"] = classifier
    if pretrained:
        assert pretrained.checkpoint is not None
        masked_lm = modeling.TextMaskedLM(
            **combined.common(pretrained, data[pretrained.stage]),
            **dataclasses.asdict(export),
        )
        checkpoint.read_weights(pretrained.checkpoint, masked_lm.variables)
        models["masked_lm.keras"] = masked_lm
    signatures = saved_model.save(
        directory, classifier=classifier, masked_lm=masked_lm
    )
    for file, model in models.items():
        model.save(directory / file)
    if masked_lm:
        left_out = interchange.write_folders(
            directory,
            masked_lm.masked_lm,
            masked_lm.codec.vocabulary,
            kind=masked_lm.codec.kind,
            lowercase=masked_lm.codec.lowercase,
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
        "multilabel": bool(classifier and classifier.multilabel),
        "validation": validation,
        "strongest_ngrams": _strongest_ngrams(classifier, tokenizer),
        "max_pieces": classifier.max_pieces if classifier else 0,
        "max_masks": masked_lm.max_masks if masked_lm else 0,
        "top_k": masked_lm.top_k if masked_lm else 0,
        "tokenizer": tokenizer.kind,
        "vocabulary_size": tokenizer.vocabulary_size,
        "sequence_length": config.data.sequence_length,
        "hidden_size": config.model.hidden_size,
        "parameters": {f: m.count_params() for f, m in models.items()},
        "fingerprints": {stage: d.fingerprint for stage, d in data.items()},
        "reports": {stage: d.report for stage, d in data.items()},
        "checkpoints": {
            source.stage: _state(source.checkpoint)
            for source in sources
            if source.checkpoint
        },
        "config": config.to_dict(),
        "versions": workdir_lib.read(workdir)["versions"],
    }
    text = card.write_card(facts, last_validation(workdir))
    (directory / card.FILE).write_text(text, encoding="utf-8")
    return facts


def _strongest_ngrams(
    classifier: modeling.TextClassifier | None, tokens: tokenizer_lib.Tokenizer
) -> dict[str, list[str]]:
    """Label -> n-grams that say most for it; {} if the model has none."""
    if not classifier or not classifier.ngrams:
        return {}
    keys, coefficients = (
        variable.numpy()
        for variable in (classifier.ngrams.keys, classifier.ngrams.coefficients)
    )
    found = ngrams.strongest(keys, coefficients, _NUM_STRONGEST)
    size = tokens.vocabulary_size
    return {
        label: [tokens.decode(ngrams.token_ids(key, size)) for key in best]
        for label, best in zip(classifier.labels, found, strict=True)
    }


def last_validation(workdir: str) -> dict[str, dict[str, float]]:
    """By stage: the numbers of the last event with a validation loss."""
    found = {}
    for stage in _ROWS:
        for event in metrics.read(workdir, stage):
            if "validation_loss" in event:
                found[stage] = {
                    name: value
                    for name, value in event.items()
                    if name == "step" or name.startswith("validation_")
                }
    return found


def _open_rows(run: Run, source: trained.Trained) -> manifest.Prepared:
    """The rows of a stage and their tokenizer; made again where gone."""
    directory = storage.path_of(source.resolved[_ROWS[source.stage]])
    if directory.is_dir():
        return run.open_rows(directory)
    # Its own config: that of the command may name another text, or none.
    again = Run(
        source.config, workdir="", runtime=runtime_lib.Runtime("one_device")
    )
    rows = again.labelled_rows if source.stage == "finetune" else again.rows
    if rows.fingerprint != directory.name:
        raise ValueError(
            f"The run was trained on the rows {directory}, which are gone, and"
            f" the source now gives {rows.fingerprint}; restore one of them."
        )
    return rows


def _state(path: pathlib.Path) -> dict[str, Any]:
    """Step and validation of a checkpoint, for people."""
    names = ("step", "validation_loss", "validation_accuracy")
    state = checkpoint.read_state(path)
    return {name: state[name] for name in names if name in state}
