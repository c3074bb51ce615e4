"""What can be refused before TensorFlow is imported, which takes seconds."""

from configs import schema
from input_pipeline import sources


def check(config: schema.Config) -> None:
    """Looks for the text of a config: every mode needs it.

    Where a data set of TFDS is missing, it is downloaded.

    Raises:
      ValueError: the text is missing, unreadable or empty, or it can neither
        be found nor downloaded; within 5 seconds.
    """
    sources.list_units(config.data)
