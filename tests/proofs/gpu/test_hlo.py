"""What a GPU would wait for is named, and our steps hold none of it."""

import pytest

from configs import overrides
from proofs.gpu import hlo
from tests.proofs.tpu import test_lower

STATIC = """
  %size = s32[] constant(8)
  %a = f32[8,50]{1,0} add(f32[8,50]{1,0} %x, f32[8,50]{1,0} %y)
  %b = f32[8]{0} set-dimension-size(f32[8]{0} %z, s32[] %size), dimensions={0}
"""


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("", ""),
        ("  %c = f32[9,50]{1,0} copy(%a)", "more rows of V than a chunk has"),
        ("  %c = bf16[3,3,50]{2,1,0} copy(%a)", "more rows of V than"),
        ("  %c = f32[9,51]{1,0} copy(%a)", ""),
        ("  %c = f32[<=9,4]{1,0} copy(%a)", "a dynamic shape: [<=9,4]"),
        ("  %c = (f32[8]) custom-call(%a)", "a call to the host: custom-call"),
        ("  %c = token[] outfeed(%a, %t)", "a call to the host: outfeed"),
        (
            "  %c = f32[8]{0} set-dimension-size(f32[8]{0} %z, s32[] %n)",
            "a size that is computed: %n",
        ),
    ],
)
def test_faults_are_named(line, fault):
    found = hlo.faults(f"{STATIC}{line}\n", vocabulary=50, most=8)
    assert len(found) == bool(fault)
    assert all(fault in one for one in found)


@pytest.mark.parametrize("stage", hlo.STAGES)
def test_a_step_and_its_validation_are_well(stage):
    config = overrides.load_config(
        "configs/sample.py",
        changes={
            **test_lower.CHANGES,
            "config.tokenizer.vocabulary_size": "77",
        },
    )
    texts = dict(hlo.lowered(config, stage))
    assert texts.keys() == {"step", "validation"}
    for text in texts.values():
        assert " dot(" in text
        assert "[77,8]" in text  # The table of the embedding.
        assert not hlo.faults(text, vocabulary=77, most=256)
        assert hlo.faults(text, vocabulary=77, most=1)
