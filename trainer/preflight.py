"""What can be refused before TensorFlow is imported, which takes seconds."""

import itertools
import logging
import pathlib
from collections.abc import Iterator

import storage
from configs import automatic, checks, schema
from input_pipeline import cleaning, documents, sources

_log = logging.getLogger(__name__)
_UNITS, _DOCUMENTS = 8, 4_000  # At most so many are read.


def check(config: schema.Config) -> None:
    """Looks for the text of a config, and for what training starts from.

    Where a data set of TFDS is missing, it is downloaded.

    Raises:
      ValueError: the text is missing, unreadable or empty, or it can neither
        be found nor downloaded; within 5 seconds. Or there is no `init_from`.
    """
    checks.require(
        not config.init_from
        or storage.in_store(config.init_from)
        or pathlib.Path(config.init_from).is_dir(),
        f"init_from={config.init_from} is no folder; give the folder of a Cloze"
        " run, a KerasHub BERT preset or a Hugging Face BERT.",
    )
    sources.list_units(config.data)


def fitted(config: schema.Config) -> schema.Config:
    """The config with a value for each `auto`, from the lengths of documents.

    Raises:
      ValueError: the text cannot be read.
    """
    if not automatic.needs_lengths(config):
        return config
    lengths = sorted(_some_lengths(config)) or [0]
    percentile = [lengths[len(lengths) * n // 100] for n in (95, 99)]
    found = automatic.fitted(
        config,
        automatic.Lengths(sum(lengths) / len(lengths), *percentile),
    )
    _log.info(
        "auto: rows of %d slots; a document has up to %d of them; fine-tuning"
        " batches of %d rows",
        found.data.sequence_length,
        found.finetune.pieces_per_row,
        found.finetune.global_batch_size,
    )
    return found


def _some_lengths(config: schema.Config) -> Iterator[int]:
    """Roughly how many tokens documents have, from samples of the text."""
    units = [u for u in sources.list_units(config.data) if u.split != "test"]
    chosen = units[:: -(-len(units) // _UNITS)]
    for unit in chosen:
        found = sources.read(config.data, unit, cleaning.Counts())
        for document in itertools.islice(found, _DOCUMENTS // len(chosen)):
            text = document.raw.decode(errors="replace")
            if words := documents.WORD.findall(text):
                yield len(words)
