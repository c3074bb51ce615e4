"""The text of a run: listed, hashed and surveyed once."""

import functools
from collections.abc import Sequence
from typing import Any

import storage
from configs import schema
from input_pipeline import sources, survey


class Corpus:
    """All documents that a config names, and what is known of them.

    Attributes:
      data: the section that names them.
    """

    def __init__(self, data: schema.DataConfig):
        self.data = data
        self._sha256 = functools.cache(storage.sha256_file)

    @functools.cached_property
    def units(self) -> list[sources.Unit]:
        """Units of work, by split; see `sources.list_units` for errors."""
        return sources.list_units(self.data)

    @functools.cached_property
    def survey(self) -> survey.Survey:
        """Labels and roles of the documents; see `survey.of` for errors."""
        return survey.of(self.data, self.units, sha256=self._sha256)

    @property
    def has_unlabelled(self) -> bool:
        """Whether some documents have no label, although others have one."""
        return self.survey.without_label > 0 or (
            self.survey.roles.has_labels
            and any(unit.split == "unlabeled" for unit in self.units)
        )

    def fingerprint(self, units: Sequence[sources.Unit]) -> dict[str, Any]:
        """What identifies the content of some units, ready for JSON."""
        return sources.fingerprint(self.data, units, sha256=self._sha256)
