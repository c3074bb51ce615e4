"""What a document is used for: training, validation or test, never two."""

import dataclasses
import hashlib
from typing import Any

from input_pipeline import documents


@dataclasses.dataclass(frozen=True)
class Roles:
    """Decides, by its text or its group alone, what a document is used for.

    Texts and groups are known by their marks; two spellings of a text have the
    same one.
    """

    validation_rate: float  # 0 where there is a file for validation.
    test_rate: float  # 0 where there is a test split, or no label.
    has_labels: bool = False  # Then documents without one only train.
    # Marks that train whatever their hash, for a class without any other.
    kept: frozenset[int] = frozenset()
    # Marks of test and of validation that occur outside of it, too.
    in_test: frozenset[int] = frozenset()
    in_validation: frozenset[int] = frozenset()
    # The mark of a text -> that of the texts that are nearly the same.
    near: dict[int, int] = dataclasses.field(default_factory=dict)

    def of(
        self, text: str, split: str, label: str = "", group: str = ""
    ) -> str:
        """What a document of a split is used for.

        One of train, validation, test, and of "repeats test" and "repeats
        validation", which are left out.
        """
        return self.of_marks(*marks(text, group), split, label)

    def of_marks(self, text: int, decisive: int, split: str, label: str) -> str:
        """The same for the two `marks` of a document."""
        role = self.drawn(decisive, split, label)
        known = (text, decisive, self.near.get(text, text))
        if role != "test" and not self.in_test.isdisjoint(known):
            return "repeats test"
        if role == "train" and not self.in_validation.isdisjoint(known):
            return "repeats validation"
        return role

    def drawn(self, mark: int, split: str, label: str) -> str:
        """The role, before a look at what else has the same text."""
        if split in ("validation", "test"):
            return split
        mark = self.near.get(mark, mark)
        only_trains = split == "unlabeled" or (self.has_labels and not label)
        if only_trains or mark in self.kept:
            return "train"
        share = mark / 2**64
        if share < self.validation_rate:
            return "validation"
        within = share < self.validation_rate + self.test_rate
        return "test" if within else "train"

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        values: dict[str, Any] = {
            name: sorted(value) if isinstance(value, frozenset) else value
            for name, value in dataclasses.asdict(self).items()
        }
        # The digest of roles without any is that of older versions.
        near = sorted(values.pop("near").items())
        return {**values, "near": near} if near else values

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Roles":
        """What `to_dict` gave."""
        fields: dict[str, Any] = {
            name: frozenset(value) if isinstance(value, list) else value
            for name, value in values.items()
            if name != "near"
        }
        return cls(**fields, near=dict(values.get("near", ())))


def marks(text: str, group: str) -> tuple[int, int]:
    """What a text is known by, and what decides its role."""
    mark = int.from_bytes(digest(documents.normalised(text)))
    # No normalised text begins like that.
    return mark, int.from_bytes(digest(f"\0{group}")) if group else mark


def digest(text: str) -> bytes:
    """Eight bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
