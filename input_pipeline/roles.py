"""What a document is used for: training, validation or test, never two."""

import dataclasses
import hashlib
from collections.abc import Sequence

from configs import schema
from input_pipeline.documents import Unit

# Set aside by hash where the source brings no test split of its own.
_TEST_RATE = 0.1


@dataclasses.dataclass(frozen=True)
class Roles:
    """Decides, by its text alone, what a document is used for."""

    validation_rate: float
    test_rate: float  # 0 where the source has its own test split.
    # Digests of the labelled documents that do not train.
    held_out: frozenset[bytes] = frozenset()

    def of(self, text: str, split: str) -> str:
        """Either train, validation, test or duplicate (of validation).

        A split without labels only trains; it may repeat labelled documents.
        """
        key = digest(text)
        if split != "unlabeled":
            return self._by_hash(key)
        if key not in self.held_out:
            return "train"
        return "test" if self._by_hash(key) == "test" else "duplicate"

    def _by_hash(self, key: bytes) -> str:
        share = int.from_bytes(key) / 2**64
        if share < self.validation_rate:
            return "validation"
        within = share < self.validation_rate + self.test_rate
        return "test" if within else "train"


def of_source(data: schema.DataConfig, units: Sequence[Unit]) -> Roles:
    """What decides for these units, all that a source has."""
    has_test = any(unit.split == "test" for unit in units)
    return Roles(data.validation_rate, 0.0 if has_test else _TEST_RATE)


def digest(text: str) -> bytes:
    """Eight bytes that stand for a text."""
    return hashlib.blake2b(text.encode(), digest_size=8).digest()
