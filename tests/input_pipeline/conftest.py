"""Prepared rows without a corpus, for the tests that only read them."""

import numpy as np
import pytest

from input_pipeline import blocks, manifest, tokenizer

VOCABULARY_SIZE = 200


@pytest.fixture(name="create_prepared")
def _create_prepared(tmp_path, monkeypatch):
    """A function that writes rows to shards and gives them opened.

    Row r of a role is r + 3, and 2 from its second slot on: an ordinary word
    that tells the row whatever becomes of its order.
    """
    monkeypatch.setattr(blocks, "_SHARD_BYTES", 400)
    monkeypatch.setattr(manifest, "_WINDOW_ROWS", 12)
    words = [f"w{number}" for number in range(VOCABULARY_SIZE - 3)]

    def create(*, train=20, validation=5, length=8, rows_per_block=4):
        roles = {}
        for name, num_rows in (("train", train), ("validation", validation)):
            writer = blocks.BlockWriter(tmp_path, name, rows_per_block)
            rows = np.full([num_rows, length], 2, "<u2")
            rows[:, 0] = np.arange(num_rows) + 3 + 2**15
            writer.write(rows)
            facts = writer.close()
            roles[name] = manifest.Role(
                files=tuple(str(tmp_path / file) for file in facts["files"]),
                blocks=tuple(facts["blocks"]),
                num_rows=facts["num_rows"],
                num_documents=num_rows,
                num_tokens=num_rows * length,
            )
        return manifest.Prepared(
            directory=tmp_path,
            fingerprint="f",
            sequence_length=length,
            dtype=np.dtype("<u2"),
            rows_per_block=rows_per_block,
            roles=roles,
            tokenizer=tokenizer.WordTokenizer(["", "[UNK]", *words, "[mask]"]),
            report={},
            row_width=length,
        )

    return create
