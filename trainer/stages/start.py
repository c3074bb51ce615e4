"""The weights from which a stage starts if it has no checkpoint."""

import logging
from collections.abc import Sequence

import keras

from trainer import modeling

_log = logging.getLogger(__name__)


def load(
    initial: modeling.Initial, variables: Sequence[keras.Variable]
) -> None:
    """Assigns pretrained weights to a model, or to a part of it.

    Raises:
      ValueError: they are damaged or do not fit.
    """
    given = initial.read_weights().assign(variables)
    _log.info(
        "starting from %s %s: %d of %d variables",
        initial.form,
        initial.path,
        len(given.arrays),
        len(variables),
    )
    if given.dropped:
        _log.info("dropped: %s", ", ".join(given.dropped))
    new = [v.path for v in variables if v.path not in given.arrays]
    if new:
        _log.info("new, from the seed: %s", ", ".join(new))
