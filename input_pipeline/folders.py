"""A folder for each class, in which every file is a document.

    aclImdb/train/neg/0_3.txt
    aclImdb/train/pos/0_9.txt
    aclImdb/train/unsup/0_0.txt    without a label

What lies beside the folders is no text, and no file whose name begins with a
dot is.
"""

import os
from collections.abc import Callable, Iterator, Sequence

import storage
from configs import schema
from input_pipeline import cleaning, documents, text_files

UNLABELED = "unsup"


def list_units(data: schema.DataConfig) -> list[documents.Unit]:
    """The units of every path of the section, files by name.

    The name counts before that of the folder, so that the classes take turns
    where files are numbered.
    """
    files: dict[str, dict[str, int]] = {}
    for split, name in text_files.FIELDS.items():
        path = os.path.expanduser(getattr(data, name))
        if split == "unlabeled":
            own = os.path.join(os.path.expanduser(data.path), UNLABELED)
            files[split] = _files(own) if os.path.isdir(own) else {}
            if os.path.isdir(path):
                files[split] |= _files(path)
            else:
                files[split] |= text_files.find(path, field=f"data.{name}")
        elif path:
            files[split] = _in_classes(path, field=f"data.{name}")
    text_files.check_apart(files)
    return [
        unit
        for split, sizes in files.items()
        for unit in text_files.grouped(
            split,
            (
                (documents.Piece(path, 0, sizes[path]), sizes[path])
                for path in sorted(
                    sizes, key=lambda path: (os.path.basename(path), path)
                )
            ),
        )
    ]


def fingerprint(
    units: Sequence[documents.Unit], sha256: Callable[[str], str]
) -> str:
    """Of split, class and content of every file, in order."""
    return storage.sha256_json(
        [
            [
                unit.split,
                "" if unit.split == "unlabeled" else _class(piece.path),
                sha256(piece.path),
            ]
            for unit in units
            for piece in unit.pieces
        ]
    )


def read(
    data: schema.DataConfig, piece: documents.Piece, counts: cleaning.Counts
) -> Iterator[documents.Document]:
    """The file, with the name of its folder for a label."""
    label = _class(piece.path) if data.label_field else ""
    with text_files.opened(piece) as file:
        yield from documents.cut(text_files.chunks(file), counts, label)


def _class(path: str) -> str:
    name = os.path.basename(os.path.dirname(path))
    return documents.name(f"folder of {path}", os.fsencode(name))


def _in_classes(path: str, *, field: str) -> dict[str, int]:
    """The sizes of the files in the folders of a folder, by path."""
    if not os.path.isdir(path):
        found = "a file" if os.path.exists(path) else "missing"
        raise ValueError(
            f"{field}={path} is {found}, seen from {os.getcwd()};"
            " data.source=folders needs a folder that holds a folder for each"
            " class, such as aclImdb/train. Files need data.source=text, csv,"
            " jsonl or parquet."
        )
    classes = [name for name in _folders(path) if name != UNLABELED]
    if not classes:
        raise ValueError(
            f"{field}={path} holds no folder for a class; move the files into"
            " one folder for each class, or use data.source=text for text"
            " without labels."
        )
    sizes: dict[str, int] = {}
    for name in classes:
        folder = os.path.join(path, name)
        if inner := _folders(folder):
            raise ValueError(
                f"{folder} is a class of {field}={path}, but holds folders:"
                f" {', '.join(inner[:5])}. Name the folder right above the"
                f" classes, such as {folder}."
            )
        files = _files(folder)
        if not any(files.values()):
            raise ValueError(
                f"{folder} is a class of {field}={path}, but holds no text;"
                " put files into it, or remove it."
            )
        sizes |= files
    return sizes


def _folders(path: str) -> list[str]:
    return sorted(entry.name for entry in _entries(path) if entry.is_dir())


def _files(path: str) -> dict[str, int]:
    """The sizes of the files in a folder, by path."""
    files = [entry.path for entry in _entries(path) if not entry.is_dir()]
    return {path: text_files.size(path) for path in files}


def _entries(path: str) -> list[os.DirEntry[str]]:
    with os.scandir(path) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]
