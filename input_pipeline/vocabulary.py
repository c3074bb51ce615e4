"""A tokenizer from the training documents, and whether it can read them."""

import collections
import functools
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from configs import schema
from input_pipeline import cleaning, packing, processes, reading
from input_pipeline import roles as roles_lib
from input_pipeline import tokenizer as tokenizer_lib
from input_pipeline.documents import Unit

_LONG = 20  # Characters; a text of so many has more than two words.
# Of scripts without blanks between words: Thai, Lao, Burmese and Khmer.
_UNSPACED = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
# What a tokenizer of words may leave unread, and how much text tells.
_MOST_UNKNOWN, _ENOUGH_TOKENS = 40, 1_000  # Percent.
_SMALL_VOCABULARY = 1_000
_MOST_UNREAD, _ENOUGH_DOCUMENTS = 50, 20


def learn(
    config: schema.Config,
    units: Sequence[Unit],
    roles: roles_lib.Roles,
    run: processes.Map,
) -> tokenizer_lib.Tokenizer:
    """The tokenizer, learned from the training documents alone.

    Args:
      config: of the run.
      units: of all splits but the test.
      roles: of the documents.
      run: see `processes.pool`.

    Raises:
      ValueError: there is no training document.
    """
    limit = config.tokenizer.max_documents
    total: collections.Counter[str] = collections.Counter()
    found: collections.Counter[str] = collections.Counter()  # By role.
    count = functools.partial(_count_unit, config, roles)
    for unit, (counts, by_role) in zip(units, run(count, units), strict=True):
        if limit and found.total() + by_role.total() >= limit:
            rest = limit - found.total()
            counts, by_role = _count_unit(config, roles, unit, limit=rest)
        total.update(counts)
        found.update(by_role)
        if limit and found.total() >= limit:
            break
    if found.total() > found["empty"] and not found["train"]:
        raise ValueError(
            f"No training text is left: of {found.total()} documents"
            f" {found['validation']} are validation and {found['test']} test,"
            f" and {found['empty']} are empty. Give more text."
        )
    return tokenizer_lib.learn(
        config.tokenizer,
        counts=total,
        texts=training_texts(config, units, roles, limit),
    )


def unread(
    texts: Sequence[str],
    encoded: Sequence[np.ndarray],
    tokenizer: tokenizer_lib.Tokenizer,
) -> packing.RowCounts:
    """How much of some documents the tokenizer does not know.

    Documents of one or two tokens are not split into words, nor is a script
    without blanks between words by any tokenizer but that of word pieces.
    """
    long = [
        1 <= len(ids) <= 2
        or tokenizer.kind != "wordpiece"
        and 2 * len(_UNSPACED.findall(text)) > len(text)
        for text, ids in zip(texts, encoded, strict=True)
        if len(text) >= _LONG
    ]
    is_unknown = np.concatenate(encoded) == tokenizer.special.unknown
    return packing.RowCounts(
        tokens_unknown=int(is_unknown.sum()),
        documents_long=len(long),
        documents_long_unread=sum(long),
    )


def require_readable(
    config: schema.Config,
    tokenizer: tokenizer_lib.Tokenizer,
    rows: Mapping[str, packing.RowCounts],
) -> None:
    """Raises ValueError where words are not what the text is made of.

    Args:
      config: of the run.
      tokenizer: that has read the text.
      rows: by role, with what `unread` counted.
    """
    if tokenizer.kind == "wordpiece":
        return
    for role, counts in rows.items():
        unknown = 100 * counts.tokens_unknown / max(1, counts.tokens_read)
        unread = 100 * (
            counts.documents_long_unread / max(1, counts.documents_long)
        )
        # A small vocabulary leaves words unknown by choice.
        has_unknown = (
            unknown > _MOST_UNKNOWN
            and config.tokenizer.vocabulary_size >= _SMALL_VOCABULARY
            and counts.tokens_read >= _ENOUGH_TOKENS
        )
        if has_unknown or (
            unread > _MOST_UNREAD and counts.documents_long >= _ENOUGH_DOCUMENTS
        ):
            raise ValueError(
                f"The word tokenizer cannot read this text: in {role},"
                f" {unknown:.0f} % of the tokens are unknown (at most"
                f" {_MOST_UNKNOWN} % may be), and {unread:.0f} % of the"
                f" documents of {_LONG} characters or more cannot be split into"
                f" words (at most {_MOST_UNREAD} %). Use"
                " --config.tokenizer.kind=wordpiece."
            )


def _count_unit(
    config: schema.Config,
    roles: roles_lib.Roles,
    unit: Unit,
    limit: int = 0,
) -> tuple[collections.Counter[str], collections.Counter[str]]:
    """Word or character counts of a unit, and its documents by role."""
    total: collections.Counter[str] = collections.Counter()
    by_role: collections.Counter[str] = collections.Counter()
    documents = reading.documents(config, unit, roles, cleaning.Counts())
    for batch in reading.in_batches(documents, limit):
        texts = [item.text for item in batch if item.role == "train"]
        total.update(tokenizer_lib.count(config.tokenizer, texts))
        by_role.update(item.role for item in batch)
    return total, by_role


def training_texts(
    config: schema.Config,
    units: Sequence[Unit],
    roles: roles_lib.Roles,
    limit: int,
) -> Iterator[str]:
    """The texts to learn from; of the first `limit` documents, or all (0)."""
    documents = itertools.chain.from_iterable(
        reading.documents(config, unit, roles, cleaning.Counts())
        for unit in units
    )
    for role, text, _ in itertools.islice(documents, limit or None):
        if role == "train":
            yield text
