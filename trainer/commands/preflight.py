"""What can be refused before TensorFlow is imported, which takes seconds."""

import pathlib

from configs import checks, schema
from input_pipeline import cleaning, sources
from trainer import storage


def check(config: schema.Config) -> None:
    """Looks for the text of a config, and for what training starts from.

    Where a data set of TFDS is missing, it is downloaded.

    Raises:
      ValueError: the text is missing, unreadable or empty, or it can neither
        be found nor downloaded; within 5 seconds. Or there is no `init_from`,
        or no label where data.label_field says there is one.
    """
    checks.require(
        not config.init_from
        or storage.in_store(config.init_from)
        or pathlib.Path(config.init_from).is_dir(),
        f"init_from={config.init_from} is no folder; give the folder of a Cloze"
        " run, a KerasHub BERT preset or a Hugging Face BERT.",
    )
    units = sources.list_units(config.data)
    if config.data.label_field != schema.DataConfig.label_field:
        _check_labels(config.data, units)


def _check_labels(data: schema.DataConfig, units: list[sources.Unit]) -> None:
    """A field that was named must be there: pretraining takes hours."""
    if data.source in ("sample", "tfds"):
        return
    labels = (
        document.label
        for unit in units
        if unit.split == "train"
        for document in sources.read(data, unit, cleaning.Counts())
    )
    first = next(labels, None)
    checks.require(
        first is not None, f"data.path={data.path} holds no document."
    )
    checks.require(
        bool(first) or any(labels),
        f"data.label_field={data.label_field!r}: no document in {data.path} has"
        " such a label; name the field of csv or jsonl that has it, or leave"
        " the flag out.",
    )
