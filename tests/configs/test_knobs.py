"""The page of all knobs is that of the schema."""

import pathlib

from configs import knobs

PAGE = pathlib.Path(knobs.__file__).parents[1] / "docs" / "knobs.md"


def test_the_page_is_up_to_date():
    text = "make it anew: python -m configs.knobs > docs/knobs.md"
    assert PAGE.read_text() == knobs.page(), text


def test_every_knob_says_what_it_means_and_decides():
    assert [knob.name for knob in knobs.KNOBS if not knob.meaning] == []
    (found,) = (k for k in knobs.KNOBS if k.name == "masking.mask_rate")
    assert (found.kind, found.default) == (float, 0.8)
    assert found.meaning == "Of the selected: replaced by [MASK]."
    row = f"| `mask_rate` | `0.8` | {found.meaning} | encoder |"
    assert row in knobs.page().splitlines()
