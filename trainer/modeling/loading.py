"""Trained weights from disk: an encoder, or what training starts from."""

from typing import Any

import storage
from configs import schema
from trainer import checkpoint, workdir
from trainer.modeling import encoder as encoders
from trainer.modeling import interchange
from trainer.modeling.initial import Initial, Weights, read_json


def load_encoder(path: str, *, dtype: str = "float32") -> encoders.Encoder:
    """The pretrained encoder: the best checkpoint by validation loss.

    Args:
      path: the workdir of a pretraining run.
      dtype: a Keras dtype policy, such as "mixed_bfloat16".

    Returns:
      A Keras model: {`token_ids`, `segment_ids`, `position_ids`}, int32
      [B, L] each (see `features`), to states [B, L, D].

    Raises:
      ValueError: the directory holds no pretraining run.
    """
    recorded = workdir.read(path)
    if not recorded:
        raise ValueError(
            f"{path} holds no run (no config.json); give the --workdir of a"
            " pretraining run."
        )
    config, checkpoints = _pretrained(path, recorded)
    encoder = encoders.Encoder.from_model_config(
        config.model,
        vocabulary_size=recorded["resolved"]["vocabulary_size"],
        sequence_length=config.data.sequence_length,
        dtype=dtype,
    )
    encoder.build(None)
    checkpoint.read_weights(checkpoints.best(), encoder.variables)
    return encoder


def _pretrained(
    path: str, recorded: dict[str, Any]
) -> tuple[schema.Config, checkpoint.Checkpoints]:
    """The config of a run and its checkpoints, of which there is one."""
    config = schema.Config.from_dict(recorded["config"])
    checkpoints = checkpoint.of_stage(path, "pretrain")
    if not checkpoints.exist():
        other = f", or give {config.init_from}" * bool(config.init_from)
        raise ValueError(
            f"{path} has no pretrained encoder (no checkpoints/pretrain); run"
            f" --mode=pretrain there first{other}."
        )
    return config, checkpoints


def initial_weights(path: str) -> Initial:
    """The model that `init_from` names; its weights are read on demand.

    Args:
      path: the workdir of a pretraining run (its best checkpoint counts), a
        KerasHub BERT preset folder or a Hugging Face BERT folder.

    Raises:
      ValueError: it is none of these, or damaged; says what was found.
    """
    directory = storage.path_of(path)
    if not (directory / "config.json").exists():
        what = "does not exist"
        if directory.exists():
            is_folder = directory.is_dir()
            what = "holds no config.json" if is_folder else "is a file"
        raise ValueError(
            f"init_from={path} {what}; give the folder of a Cloze run (that"
            " above export/), a KerasHub BERT preset or a Hugging Face BERT."
        )
    content = read_json(directory / "config.json")
    if "resolved" in content:
        return _of_run(path)
    if storage.in_store(path):
        raise ValueError(
            f"init_from={path} is a BERT, which is read from the disk; copy it:"
            " gcloud storage cp --recursive. A Cloze run may be on gs://."
        )
    return interchange.read_bert(path)


def _of_run(path: str) -> Initial:
    recorded = workdir.read(path)
    config, checkpoints = _pretrained(path, recorded)
    # The run's copy of the vocabulary, else that of its data.
    file = storage.path_of(path) / "vocabulary.json"
    if not file.exists():
        file = storage.path_of(recorded["resolved"]["prepared"]) / file.name
    content = read_json(file)
    if not {"kind", "vocabulary"} <= set(content):
        raise ValueError(f"{file} is damaged: it holds no vocabulary.")
    return Initial(
        path=path,
        form="Cloze run",
        kind=content["kind"],
        lowercase=content.get("lowercase", True),
        vocabulary=content["vocabulary"],
        model_config=config.model,
        sequence_length=config.data.sequence_length,
        read_weights=lambda: Weights(
            checkpoint.weights_of(checkpoints.best()), []
        ),
    )
