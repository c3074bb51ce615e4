"""The trained encoder of a workdir, for people who want just that."""

import pathlib

from configs import schema
from trainer import checkpoint, workdir
from trainer.modeling import encoder as encoders


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
    config = schema.Config.from_dict(recorded["config"])
    encoder = encoders.Encoder.from_model_config(
        config.model,
        vocabulary_size=recorded["resolved"]["vocabulary_size"],
        sequence_length=config.data.sequence_length,
        dtype=dtype,
    )
    encoder.build(None)
    stage = pathlib.Path(path) / "checkpoints" / "pretrain"
    best = checkpoint.Checkpoints(stage).best()
    checkpoint.read_weights(best, encoder.variables)
    return encoder
