import dataclasses

import pytest

from configs import schema
from input_pipeline import documents, roles

TEXTS = [f"document {number}" for number in range(4_000)]
ROLES = roles.Roles(validation_rate=0.2, test_rate=0.1)


def _texts(role, split="train", decide=ROLES):
    return {text for text in TEXTS if decide.of(text, split) == role}


@pytest.mark.parametrize(
    ("role", "rate"), [("train", 0.7), ("validation", 0.2), ("test", 0.1)]
)
def test_shares(role, rate):
    sigma = (rate * (1 - rate) / len(TEXTS)) ** 0.5
    assert abs(len(_texts(role)) / len(TEXTS) - rate) < 4 * sigma


def test_no_test_where_the_source_has_its_own():
    own = dataclasses.replace(ROLES, test_rate=0.0)
    assert not _texts("test", decide=own)
    assert _texts("validation", decide=own) == _texts("validation")


def test_text_without_labels_only_trains():
    assert _texts("train", "unlabeled") == set(TEXTS)


def test_text_without_labels_repeats_nothing_that_is_held_out():
    held_out = _texts("validation") | _texts("test")
    decide = dataclasses.replace(
        ROLES, held_out=frozenset(map(roles.digest, held_out))
    )
    assert _texts("train", "unlabeled", decide) == _texts("train")
    assert _texts("duplicate", "unlabeled", decide) == _texts("validation")
    assert _texts("test", "unlabeled", decide) == _texts("test")
    # What has labels is decided as before.
    assert _texts("validation", "train", decide) == _texts("validation")


def test_golden_digest():
    # Pinned: another digest would move documents between the roles.
    assert roles.digest("naïve").hex() == "bef26892eeeb4cdc"


@pytest.mark.parametrize(
    ("splits", "test_rate"),
    [(["train"], 0.1), (["train", "unlabeled"], 0.1), (["train", "test"], 0)],
)
def test_a_source_with_its_own_test_sets_none_aside(splits, test_rate):
    units = [documents.Unit(split, ()) for split in splits]
    data = schema.DataConfig(validation_rate=0.25)
    assert roles.of_source(data, units) == roles.Roles(0.25, test_rate)
