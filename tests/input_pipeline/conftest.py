"""Prepared rows without a corpus, and labelled reviews for one."""

import json

import numpy as np
import pytest
import tensorflow as tf

from configs import schema
from input_pipeline import blocks, manifest, stream, tokenizer

VOCABULARY_SIZE = 200


WORDS = ["good", "bad", "film", "plot"]
TOKENIZER = tokenizer.WordTokenizer(["", "[UNK]", *WORDS, "[mask]"])


def reviews(number, *, labels=("no", "yes")):
    """Records with a text and a label, in turn."""
    return [
        {
            "text": f"{WORDS[n % 4]} film number {n} " + "plot " * (n % 30),
            "label": labels[n % len(labels)],
        }
        for n in range(number)
    ]


def grouped(number):
    """Five documents a group, and some that every group repeats."""
    return [
        {
            "text": f"own {n} film" if n % 5 else f"good film {n % 100}",
            "label": "yes" if n % 3 else "no",
            "author": f"author {n // 5}",
        }
        for n in range(number)
    ]


def write(path, records):
    """Records as JSON lines."""
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


def config_of(tmp_path, **changes):
    """The defaults, rows in tmp_path/prepared, and changes by full name."""
    config = schema.defaults()
    config.update_from_flattened_dict(
        {
            "data.prepared_dir": str(tmp_path / "prepared"),
            "data.validation_rate": 0.2,
            "data.num_processes": 1,
            **changes,
        }
    )
    return schema.Config.from_config_dict(config)


def labelled_config(tmp_path, **changes):
    """A config on tmp_path/reviews.jsonl."""
    return config_of(
        tmp_path,
        **{
            "data.source": "jsonl",
            "data.path": str(tmp_path / "reviews.jsonl"),
            "data.sequence_length": 8,
            "tokenizer.vocabulary_size": 16,
            "finetune.global_batch_size": 4,
            **changes,
        },
    )


def global_batches(
    create, prepared, config, *, hosts=1, replicas=1, num_steps=4
):
    """Global batches, put together again from those of every replica."""
    parts = [
        list(
            create(
                prepared,
                config,
                shard=stream.Shard(host, hosts),
                num_replicas=replicas,
            ).take(num_steps * replicas)
        )
        for host in range(hosts)
    ]
    return [
        {
            key: tf.concat(
                [
                    batch[key]
                    for part in parts
                    for batch in part[start : start + replicas]
                ],
                axis=0,
            )
            for key in parts[0][0]
        }
        for start in range(0, len(parts[0]), replicas)
    ]


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
