"""Documents from wherever the configuration says, in fixed units of work.

for unit in sources.list_units(data):
    for document in sources.read(data, unit, counts):
        text = cleaning.clean(document.raw, counts)
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import storage
from configs import schema
from input_pipeline import (
    cleaning,
    folders,
    record_files,
    sample_corpus,
    text_files,
    tfds_source,
)
from input_pipeline.documents import Document, Piece, Unit

__all__ = ["Document", "Piece", "Unit", "fingerprint", "list_units", "read"]

SAMPLE_UNIT_DOCUMENTS = 1_000


def list_units(data: schema.DataConfig) -> list[Unit]:
    """Every unit: train, unlabeled, validation, then test; files by name.

    Units depend on the input alone. Each can be pickled, and read without the
    others. Raises ValueError if the input is missing, unreadable or empty.
    """
    if data.source == "sample":
        units = _sample_units()
    elif data.source == "tfds":
        units = tfds_source.list_units(data)
    elif data.source == "folders":
        units = folders.list_units(data)
    else:
        units = text_files.list_units(data)
    if not any(unit.split == "train" for unit in units):
        raise ValueError(
            "There is nothing to train on; data.path or data.train_split must"
            " name some text."
        )
    return units


def read(
    data: schema.DataConfig, unit: Unit, counts: cleaning.Counts
) -> Iterator[Document]:
    """The documents of a unit in order; of the counts, `documents_split`.

    No document has more than `documents.MAX_DOCUMENT_BYTES`: longer ones come
    in pieces, each with the label. Line ends around a document and the quotes
    and escapes of csv and JSON are not part of it.
    """
    if data.source == "sample":
        return _read_sample(unit)
    if data.source == "tfds":
        return tfds_source.read(data, unit, counts)
    data = data.of_split(unit.split)
    return (
        document
        for piece in unit.pieces
        for document in _reader(data, unit.split, piece.path)(
            data, piece, counts
        )
    )


def fingerprint(
    data: schema.DataConfig,
    units: Sequence[Unit],
    *,
    sha256: Callable[[str], str] = storage.sha256_file,
) -> dict[str, Any]:
    """What identifies the input, ready for JSON; not where it is stored.

    Reads every file once. Fields and splits chosen by `data` are not part of
    it, except the slices of a TFDS data set; nor is how files are to be read,
    except where `data` says so.
    """
    if data.source == "sample":
        source = b"".join(path.read_bytes() for path in sample_corpus.FILES)
        content: Any = hashlib.sha256(source).hexdigest()
    elif data.source == "tfds":
        content = tfds_source.fingerprint(data)
    elif data.source == "folders":
        content = folders.fingerprint(units, sha256)
    else:
        content = text_files.fingerprint(units, sha256)
    has_test = any(unit.split == "test" for unit in units)
    how = {
        "separator": data.separator,
        "columns": data.columns,
        "label_names": data.label_names,
        "label_kind": data.label_kind if data.label_kind != "auto" else "",
        "label_separator": data.label_separator,
        "test_text_field": data.test_text_field if has_test else "",
        "test_label_field": data.test_label_field if has_test else "",
    }
    given = {name: value for name, value in how.items() if value}
    return {"source": data.source, "content": content, **given}


def _reader(
    data: schema.DataConfig, split: str, path: str
) -> Callable[[schema.DataConfig, Piece, cleaning.Counts], Iterator[Document]]:
    if data.source == "folders":
        return folders.read
    is_plain = text_files.is_plain(data, split, path)
    return text_files.read if is_plain else record_files.read


def _sample_units() -> list[Unit]:
    units = []
    for split in ("train", "test"):
        size = sample_corpus.SIZES[split]
        for start in range(0, size, SAMPLE_UNIT_DOCUMENTS):
            stop = min(start + SAMPLE_UNIT_DOCUMENTS, size)
            units.append(Unit(split, (Piece(split, start, stop),)))
    return units


def _read_sample(unit: Unit) -> Iterator[Document]:
    for piece in unit.pieces:
        for index in range(piece.start, piece.stop):
            text, label = sample_corpus.review(piece.path, index)
            yield Document(text.encode(), label)
