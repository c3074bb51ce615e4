import dataclasses

import pytest

from input_pipeline import roles

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


def test_a_split_of_its_own_has_its_role():
    for split, role in (
        ("validation", "validation"),
        ("test", "test"),
        ("unlabeled", "train"),
    ):
        assert _texts(role, split) == set(TEXTS)
    own = dataclasses.replace(ROLES, test_rate=0.0)
    assert not _texts("test", decide=own)
    assert _texts("validation", decide=own) == _texts("validation")


def test_two_spellings_have_one_role():
    for text in TEXTS[:500]:
        other = f"  {text.upper()}\u2026 "
        assert ROLES.of(text, "train") == ROLES.of(other, "train")


def test_where_some_have_labels_the_others_only_train():
    decide = dataclasses.replace(ROLES, has_labels=True)
    for text in TEXTS:
        assert decide.of(text, "train", "x") == ROLES.of(text, "train")
        assert decide.of(text, "train", "") == "train"


def test_a_group_stays_together():
    for group in map(str, range(100)):
        expected = ROLES.of("any text", "train", group=group)
        found = {ROLES.of(t, "train", group=group) for t in TEXTS[:50]}
        assert found == {expected}
    found = [ROLES.of("any text", "train", group=text) for text in TEXTS]
    assert abs(found.count("train") / len(TEXTS) - 0.7) < 0.03


def test_what_is_held_out_is_left_out_elsewhere():
    in_validation, in_test = _texts("validation"), _texts("test")
    decide = dataclasses.replace(
        ROLES,
        in_validation=frozenset(roles.marks(t, "")[0] for t in in_validation),
        in_test=frozenset(roles.marks(t, "")[0] for t in in_test),
    )
    assert _texts("train", "unlabeled", decide) == _texts("train")
    assert _texts("repeats validation", "unlabeled", decide) == in_validation
    assert _texts("repeats test", "unlabeled", decide) == in_test
    # What has labels is decided as before.
    assert _texts("validation", "train", decide) == in_validation
    assert _texts("test", "train", decide) == in_test
    # Validation repeats no test, either.
    assert _texts("repeats test", "validation", decide) == in_test
    assert roles.Roles.from_dict(decide.to_dict()) == decide


def test_a_mark_may_be_kept_in_training():
    text = min(_texts("test"))
    decide = dataclasses.replace(
        ROLES, kept=frozenset([roles.marks(text, "")[1]])
    )
    assert decide.of(text.upper(), "train") == "train"
    assert _texts("test", decide=decide) == _texts("test") - {text}


def test_golden_digest():
    # Pinned: another digest would move documents between the roles.
    assert roles.digest("naïve").hex() == "bef26892eeeb4cdc"
    assert roles.marks("Naïve!", "")[0] == 0xBEF26892EEEB4CDC
    assert roles.marks("naïve", "me")[1] == 0x56D806F86799F425
