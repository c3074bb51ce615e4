"""The card says what a model is, and lets data say nothing else."""

import storage
from configs import schema
from trainer.serving import card

FACTS = {
    "format": 1,
    "signatures": ["classify", "embed", "fill_mask"],
    "labels": ["bad", "good"],
    "embed_stage": "pretrained",
    "max_pieces": 4,
    "max_masks": 3,
    "top_k": 5,
    "tokenizer": "word",
    "vocabulary_size": 12345,
    "sequence_length": 128,
    "hidden_size": 64,
    "parameters": {"model.keras": 1000, "masked_lm.keras": 2000},
    "fingerprints": {"pretrain": "0123abcd", "finetune": "4567cdef"},
    "reports": {
        "pretrain": {
            "read": {"documents_read": 7000, "documents_kept": 6999},
            "documents_reserved_for_test": 700,
            "rows": {
                "train": {
                    "documents": 6000,
                    "tokens_kept": 654321,
                    "tokens_cut": 0,
                }
            },
        },
        "finetune": {
            "train": {"documents": 5, "tokens_kept": 4321, "tokens_cut": 2}
        },
    },
    "checkpoints": {"pretrain": {"step": 99, "validation_loss": 2.5}},
    "config": schema.Config().to_dict(),
    "versions": {"keras": "3.15.1"},
}
METRICS = {"pretrain": {"step": 120, "validation_loss": 2.625}}


def test_it_says_what_the_model_is_and_how_to_load_it():
    text = card.write_card(FACTS, METRICS)
    for part in (
        '"bad", "good"',
        "| pretrain: train tokens kept | 654,321 |",
        "| finetune: train tokens kept | 4,321 |",
        "| finetune: fingerprint | 4567cdef |",
        "word, 12,345 tokens",
        "| validation_loss | 2.5 |",
        "| last validation: validation_loss | 2.625 |",
        "| model.hidden_size | 128 |",
        'model.signatures["classify"]',
        'keras.saving.load_model("model.keras")',
        'keras.saving.load_model("masked_lm.keras")',
        "Not evaluated yet",
    ):
        assert part in text


def test_data_is_neither_markdown_nor_html():
    hostile = "x\n\n# Heading\n<script>alert(1)</script> `a` | b & [c](d) _e_"
    config = schema.Config().to_dict()
    config["data"]["path"] = hostile
    config["model"] = {"activation": hostile}
    text = card.write_card(
        {**FACTS, "labels": [hostile, "snake_case"], "config": config},
        {"pretrain": {hostile: hostile}, "test": {hostile: 1}},
    )
    lines = text.splitlines()
    assert not [line for line in lines if line.startswith("# Heading")]
    assert "<script>" not in text
    escaped = (
        r"x \# Heading &lt;script&gt;alert\(1\)&lt;/script&gt; \`a\` \| b"
        r" &amp; \[c\]\(d\) \_e\_"
    )
    assert f'one of "{escaped}", "snake_case"' in text
    assert f"| source | sample {escaped} |" in lines
    assert f"| model.activation | {escaped} |" in lines
    assert f"| last validation: {escaped} | {escaped} |" in lines
    assert f"| {escaped} | 1 |" in lines


def test_what_is_missing_is_said():
    facts = {**FACTS, "signatures": ["embed", "fill_mask"], "labels": []}
    facts["parameters"] = {"masked_lm.keras": 2000}
    text = card.write_card(facts, {})
    assert (
        "not `classify` and `explain`: the run has not been trained for it"
        in text
    )
    assert 'model.keras")' not in text.replace("masked_lm.keras", "")
    for block in text.split("```python\n")[1:]:
        compile(block.split("```")[0], "README.md", "exec")


def test_evaluation_is_filled_in_later(tmp_path):
    directory = tmp_path / "export"
    with storage.new_directory(directory, facts=FACTS) as temporary:
        (temporary / card.FILE).write_text(card.write_card(FACTS, METRICS))
        (temporary / "other").write_text("as it was")
    tables = {"Classes": [("class", "errors"), ("a|b", "7,654")]}
    metrics = {**METRICS, "test": {"accuracy": 0.987}}
    card.rewrite_card(directory, metrics, tables)
    assert storage.verify(directory)["labels"] == ["bad", "good"]
    text = (directory / card.FILE).read_text()
    assert "| accuracy | 0.987 |" in text
    assert r"| a\|b | 7,654 |" in text
    assert "Not evaluated yet" not in text
    assert "| last validation: validation_loss | 2.625 |" in text
