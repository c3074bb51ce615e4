"""`--mode=prepare`: text to a vocabulary and packed rows, once a corpus."""

import contextlib

from input_pipeline import preparation
from trainer.run import Run
from trainer.stages import audit


def run(run: Run) -> None:
    """Prepares the rows and says what the text holds, and what may be wrong.

    Raises:
      ValueError: the text cannot be read, or holds nothing to train on.
    """
    _ = run.rows  # Makes them where they are missing; the log says the rest.
    with contextlib.suppress(preparation.NoLabelsError):  # Nothing to audit.
        audit.run(run)
