"""One page, well-formed, nothing from elsewhere, no text becomes markup."""

import html.parser
import json
import re

import pytest

from trainer.report import page

EVENTS = [
    {"step": 50, "loss": 6.0, "accuracy": 0.1, "real_tokens_per_second": 9e3},
    {"step": 100, "loss": 5.0, "accuracy": 0.2, "real_tokens_per_second": 1e4},
    {"step": 100, "validation_loss": 5.5, "validation_accuracy": 0.15},
    {
        "step": 100,
        "event": "fill_ins",
        "fill_ins": [
            {
                "text": "a [MASK] <b>film",
                "masks": [[["good", 0.5], ["<i>", 0.25]]],
            }
        ],
    },
    {
        "step": 200,
        "event": "fill_ins",
        "fill_ins": [{"text": "a [MASK] <b>film", "masks": [[["bad", 0.75]]]}],
    },
]
EVIL = '"></td><script>alert(1)</script> & \ud800'
VOID = {"meta", "img", "br"}


def create(**changes):
    values = {
        "title": "a run",
        "answer": [],
        "summary": {"test accuracy": "0.9"},
        "stages": {"pretrain": EVENTS},
        "config": {"seed": 3},
    }
    return page.render(**{**values, **changes})


class Checker(html.parser.HTMLParser):
    """Notes tags and attributes; complains about what is not closed."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def full():
    return create(
        stages={"pretrain": EVENTS, "finetune": EVENTS[:3]},
        picture=b"\x89PNG",
        mistakes=[
            {"text": EVIL, "label": EVIL, "answer": EVIL, "probability": 0.991},
            {
                **dict.fromkeys(("text", "label", "answer"), EVIL),
                "probability": 0.5,
                "explanation": {
                    "against": EVIL,
                    "words": [f"{EVIL} ", "so ", "<b>bad</b>\n", "film"],
                    "contributions": {
                        "n-grams": [2.0, 0.1, -0.5, 0],
                        "encoder": [0.5, 0.1, None, None],
                    },
                },
            },
        ],
        audit={
            "documents": 10_000,
            "accuracy": 0.875,
            "doubted": 1,
            "classes": [
                {
                    "label": EVIL,
                    "train": 1_234,
                    "validation": 5,
                    "median_tokens": 6.0,
                    "long_tokens": 7.0,
                }
            ],
            "suspects": [
                {"text": EVIL, "label": EVIL, "answer": EVIL}
                | {"probability": 0.123}
            ],
            "giveaways": [
                {"words": EVIL, "label": EVIL, "documents": 8}
                | {"share": 0.5, "others": 9}
            ],
            "contested": [[{"text": EVIL, "label": EVIL}] * 2],
            "near_duplicates": {"texts": 1_011, "groups": 12},
            "validation": 100,
            "gap": 0.0651,
            "wanted_gap": 0.02,
            "validation_wanted": 1_201,
        },
        tables={EVIL: [("class", "errors"), (EVIL, "7,654")]},
        title=EVIL,
        answer=[f"first {EVIL}"],
        summary={EVIL: EVIL},
        config={"data": {"path": EVIL}},
    )


def test_everything_is_there_and_no_text_becomes_markup(full):
    checked = Checker(full)
    assert checked.tags.count("img") == 7  # Three of a stage, and one.
    for text in (
        "Stage pretrain",
        "Stage finetune",
        "99.1 %",
        "7,654",
        "alert(1)",
    ):
        assert text in full
    for text in (
        "1,234 documents, and 5 for validation; of 6 tokens (median), 95 %",
        "answer 87.5 % of 10,000 documents",
        "WARNING: validation has 100 documents",
        "from 6.5 points of accuracy on; 1,201 documents would do for 2 points",
        "1,011 texts are nearly the same as another one, in 12 groups",
        "in 50 % of its documents (8) and in 9 others",
        "with 12.3 %",
    ):
        assert text in full
    assert 'src="data:image/png;base64,iVBORw=="' in full
    # Of the key, and of a word each; "so" says too little.
    assert checked.tags.count("mark") == 4
    assert 'title="+2.50: n-grams +2.00, encoder +0.50"' in full
    assert (
        'class="against" style="--share:0.20"'
        ' title="-0.50: n-grams -0.50, encoder +0.00">'
        "&lt;b&gt;bad&lt;/b&gt;</mark>\nfilm" in full
    )
    assert "script" not in checked.tags
    assert "<script" not in full
    full.encode()  # No lone surrogate.
    for name, value in checked.attributes:
        if name in ("src", "href", "srcset", "action"):
            assert value.startswith("data:")
    assert not re.search(r"url\(|@import|<link|<iframe", full)


def test_the_answer_comes_first_then_mistakes_curves_and_the_text(full):
    places = [
        full.index(text)
        for text in (
            "first &quot;",
            "What it gets most wrong",
            "On the test split",
            "Stage pretrain",
            "The labelled text",
            "All results",
            "Configuration",
        )
    ]
    assert places == sorted(places)


def test_fill_ins_stand_epoch_by_epoch():
    text = create()
    assert "a [MASK] &lt;b&gt;film" in text
    first = text.index("good 0.50, &lt;i&gt; 0.25")
    assert text.index("step 100") < first < text.index("step 200")
    assert first < text.index("bad 0.75")


def test_a_run_that_measured_nothing_still_has_a_page():
    text = create(stages={"pretrain": []}, summary={})
    Checker(text)
    assert "test split" not in text
    assert "<img" not in text
    assert json.dumps({"seed": 3}, indent=2).replace('"', "&quot;") in text
