"""What can be refused before TensorFlow is imported, which takes seconds."""

import pathlib

from configs import checks, schema
from input_pipeline import sources


def check(config: schema.Config) -> None:
    """Looks for the text of a config, and for what training starts from.

    Where a data set of TFDS is missing, it is downloaded.

    Raises:
      ValueError: the text is missing, unreadable or empty, or it can neither
        be found nor downloaded; within 5 seconds. Or there is no `init_from`.
    """
    checks.require(
        not config.init_from or pathlib.Path(config.init_from).is_dir(),
        f"init_from={config.init_from} is no folder; give the folder of a Cloze"
        " run, a KerasHub BERT preset or a Hugging Face BERT.",
    )
    sources.list_units(config.data)
