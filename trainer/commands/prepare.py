"""`--mode=prepare`: text to a vocabulary and packed rows, once a corpus."""

import logging

from input_pipeline import preparation
from trainer.run import Run
from trainer.stages import audit

_log = logging.getLogger(__name__)


def run(run: Run) -> None:
    """Prepares the rows and says what the text holds, and what may be wrong.

    Raises:
      ValueError: the text cannot be read, or holds nothing to train on.
    """
    _ = run.rows  # Makes them where they are missing; the log says the rest.
    try:
        _ = run.labelled_rows
    except preparation.NoLabelsError:
        return
    except ValueError as error:  # The text may be for pretraining alone.
        _log.warning("WARNING: no classifier can learn this: %s", error)
        return
    audit.run(run)
