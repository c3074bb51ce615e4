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
        path, field = getattr(data, name), f"data.{name}"
        if split == "unlabeled":
            own = os.path.join(os.path.expanduser(data.path), UNLABELED)
            files[split] = _files(own) | text_files.find(path, field=field)
        elif path:
            files[split] = _in_classes(os.path.expanduser(path), field=field)
    text_files.check_apart(files)
    units: list[documents.Unit] = []
    for split, sizes in files.items():
        paths = sorted(sizes, key=lambda path: (os.path.basename(path), path))
        pieces = [documents.Piece(path, 0, sizes[path]) for path in paths]
        units += text_files.grouped(split, [(p, p.stop) for p in pieces])
    return units


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
    classes = [name for name in _folders(path) if name != UNLABELED]
    if not classes:
        found = "holds no folder" if os.path.isdir(path) else "is missing"
        found = "is a file" if os.path.isfile(path) else found
        raise ValueError(
            f"{field}={path} {found}, seen from {os.getcwd()}; data.source="
            "folders needs a folder with a folder for each class in it, such as"
            " aclImdb/train. Files need another data.source."
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
    if not os.path.isdir(path):
        return []
    with os.scandir(path) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]
