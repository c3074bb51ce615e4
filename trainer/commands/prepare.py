"""`--mode=prepare`: text to a vocabulary and packed rows, once a corpus."""

from trainer.run import Run


def run(run: Run) -> None:
    """Prepares the rows for pretraining and says what the text holds.

    Raises:
      ValueError: the text cannot be read, or holds nothing to train on.
    """
    _ = run.rows  # Makes them where they are missing; the log says the rest.
