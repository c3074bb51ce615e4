"""The section on the text: which sources there are, and how each is read.

No default is None; see configs/sections.py.
"""

import dataclasses
from typing import Any, Self

from configs import checks

_RECORDS = ("csv", "jsonl", "parquet")
_WITH_SETS = ("tfds", *_RECORDS)  # Where a document may have several labels.
_FILES = ("text", "folders", *_RECORDS)
_SOURCES = ("sample", "tfds", *_FILES)
# What only some sources read; set for another, it would have no effect.
_READ_BY = {
    "path": _FILES,
    "test_path": _FILES,
    "validation_path": _FILES,
    "unlabeled_path": _FILES,
    "group_field": ("tfds", *_RECORDS),
    "test_text_field": _RECORDS,
    "test_label_field": _RECORDS,
    "label_names": _RECORDS,
    "label_separator": _RECORDS,
    "separator": ("csv",),
    "columns": ("csv",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the text comes from and how it becomes rows."""

    # sample | tfds | text | folders | csv | jsonl | parquet
    source: str = "sample"
    name: str = ""  # tfds: the data set, such as "imdb_reviews".
    # File or glob, .gz and .zst too; folders: the one that holds the classes.
    path: str = ""
    test_path: str = ""  # The same for the test split; else cut by hash.
    validation_path: str = ""  # The same for validation.
    unlabeled_path: str = ""  # More text for pretraining; .txt too.
    document: str = "line"  # text: a document is a "line" or a "file".
    text_field: str = "text"  # tfds and records: the field with the text.
    label_field: str = "label"  # The field with the label, if there is one.
    test_text_field: str = ""  # The same in test_path; "" = as above.
    test_label_field: str = ""  # Likewise.
    label_names: tuple[str, ...] = ()  # Records: of labels 0, 1, ...
    # Labels of a document: one | many | auto, which takes lists for many.
    label_kind: str = "auto"
    label_separator: str = ""  # Records: between the labels in one field.
    separator: str = ""  # csv: between fields; "" = told by the first lines.
    columns: tuple[str, ...] = ()  # csv: names, if the file has no header.
    train_split: str = "train"  # tfds: labelled text; validation is cut here.
    group_field: str = ""  # Documents with one value of it stay together.
    near_duplicates: bool = True  # So do documents that are nearly the same.
    unlabeled_split: str = ""  # tfds: more text for pretraining only.
    test_split: str = "test"  # tfds: never seen by vocabulary or pretraining.
    validation_rate: float = -1.0  # Share held out by hash; -1 = by size.
    sequence_length: int = 256  # L, slots a row; 0 = fits the documents.
    packing: str = "fill"  # "fill" rows, or one "document" a row, cut at L.
    validation_packing: str = "fill"  # The same for validation rows.
    prepared_dir: str = "runs/prepared"  # Shared by all runs.
    num_processes: int = 0  # For prepare; 0 = one a core.

    def __post_init__(self) -> None:
        checks.choice("data.source", self.source, _SOURCES)
        checks.choice("data.document", self.document, ("line", "file"))
        for name in ("packing", "validation_packing"):
            value = getattr(self, name)
            checks.choice(f"data.{name}", value, ("fill", "document"))
        for name, sources in _READ_BY.items():
            value = getattr(self, name)
            checks.require(
                not value or self.source in sources,
                f"data.{name}={value!r} is not read by data.source="
                f"{self.source}; leave it out, or add --config.data.source="
                f"{' or '.join(sources)}.",
            )
        checks.require(
            bool(self.path) or self.source not in _FILES,
            f"data.source={self.source} needs data.path,"
            + (
                " a folder with a folder for each class."
                if self.source == "folders"
                else " a file or a glob such as 'reviews/*.txt'."
            ),
        )
        self._check_records()
        self._check_label_kind()
        if self.source == "tfds":
            checks.require(
                bool(self.name),
                "data.source=tfds needs data.name, such as imdb_reviews.",
            )
        checks.require(
            self.sequence_length == 0 or self.sequence_length >= 8,
            f"data.sequence_length={self.sequence_length} must be at least 8,"
            " or 0 to fit the documents.",
        )
        checks.at_least("data.num_processes", self.num_processes, 0)
        checks.require(
            0 < self.validation_rate < 1 or self.validation_rate == -1,
            f"data.validation_rate={self.validation_rate} must lie between 0"
            " and 1 (exclusive), or be -1 for one that suits the size.",
        )

    def _check_records(self) -> None:
        checks.require(
            self.separator in ("", "\\t")
            or (len(self.separator) == 1 and self.separator not in '"\r\n'),
            f"data.separator={self.separator!r} must be one character, such as"
            " ';' or '\\t'.",
        )
        checks.require(
            not self.columns
            or (
                self.text_field in self.columns
                and len({*self.columns}) == len(self.columns)
            ),
            f"data.columns={self.columns} must name every column once, that of"
            f" data.text_field={self.text_field!r} among them.",
        )
        checks.require(
            bool(self.test_path)
            or not (self.test_text_field or self.test_label_field),
            "data.test_text_field and data.test_label_field are fields of"
            " data.test_path, which is missing.",
        )

    def _check_label_kind(self) -> None:
        checks.choice(
            "data.label_kind", self.label_kind, ("auto", "one", "many")
        )
        checks.require(
            self.label_kind != "many" or self.source in _WITH_SETS,
            f"data.label_kind=many is read by data.source="
            f"{' or '.join(_WITH_SETS)} alone; data.source={self.source} has"
            " one label a document.",
        )
        checks.require(
            self.label_kind != "one" or not self.label_separator,
            f"data.label_separator={self.label_separator!r} separates several"
            " labels of a document, but data.label_kind=one allows one; leave"
            " one of them out.",
        )

    def of_split(self, split: str) -> Self:
        """The section with the fields as they are called in one split."""
        fields: dict[str, Any] = {}
        if split == "unlabeled":  # Whatever stands in such a field.
            fields["label_field"] = ""
        if split == "test" and self.test_text_field:
            fields["text_field"] = self.test_text_field
        if split == "test" and self.test_label_field:
            fields["label_field"] = self.test_label_field
        return dataclasses.replace(self, **fields)
