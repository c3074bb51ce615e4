"""What a stage starts from where the workdir has no checkpoint of it.

The order, for every stage: its own newest checkpoint (`stage.train` restores
it); else the run's pretraining, for fine-tuning; else `init_from`; else
scratch. The vocabulary of `init_from` comes along in every case.
"""

import logging
from collections.abc import Sequence

import keras

from configs import schema
from input_pipeline import tokenizer as tokenizer_lib
from trainer import checkpoint, modeling

_log = logging.getLogger(__name__)


def tokenizer(config: schema.Config) -> tokenizer_lib.Tokenizer | None:
    """That of `init_from`, or None: it is learned from the text.

    Raises:
      ValueError: `init_from` is nothing to start from, or does not fit the
        config.
    """
    if not config.init_from:
        return None
    initial = _fitting(config, config.init_from)
    return tokenizer_lib.create(initial.kind, initial.vocabulary)


def source(config: schema.Config, workdir: str, name: str) -> str:
    """The folder whose weights a stage begins with; "" = scratch.

    Args:
      config: its `init_from` is checked, where it counts.
      workdir: of the run.
      name: the stage, "pretrain" or another.

    Raises:
      ValueError: `init_from` is nothing to start from, or does not fit.
    """
    if checkpoint.of_stage(workdir, "pretrain").exist():
        # Pretraining restores it; any other stage begins with its best.
        return "" if name == "pretrain" else workdir
    if config.init_from:
        _fitting(config, config.init_from)
    return config.init_from


def encoder_of(workdir: str, source: str) -> str:
    """What `source` gives fine-tuning to begin with, in words."""
    if source != workdir:
        return source or "scratch"
    best = checkpoint.of_stage(workdir, "pretrain").best()
    return f"checkpoints/pretrain/{best.name}"


def load(
    config: schema.Config, path: str, variables: Sequence[keras.Variable]
) -> None:
    """Assigns the weights in the folder to a model, or to a part of it.

    Raises:
      ValueError: they are damaged or do not fit.
    """
    initial = _fitting(config, path)
    given = initial.read_weights().assign(variables)
    _log.info(
        "starting from %s %s: %d of %d variables",
        initial.form,
        path,
        len(given.arrays),
        len(variables),
    )
    if given.dropped:
        _log.info("dropped: %s", ", ".join(given.dropped))
    new = [v.path for v in variables if v.path not in given.arrays]
    if new:
        _log.info("new, from the seed: %s", ", ".join(new))


def _fitting(config: schema.Config, path: str) -> modeling.Initial:
    initial = modeling.initial_weights(path)
    initial.check_fits(config)
    return initial
