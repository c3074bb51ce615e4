"""The prompts of a run: those of the config, or made from its own text."""

from collections.abc import Iterator

import numpy as np

from configs import schema
from input_pipeline import manifest, packing, stream
from input_pipeline import tokenizer as tokenizer_lib

_NUMBER = 2
_NUM_ROWS = 256  # Only the first validation rows are searched.
# Tokens: at least 6 if possible; a text of more than 20 is cut after 15.
_LEAST, _MOST, _CUT = 6, 20, 15


def choose(
    config: schema.EvaluationConfig, prepared: manifest.Prepared
) -> tuple[str, ...]:
    """The configured sentences, or else two validation texts with a mask each.

    The same rows always give the same sentences. A mask never hides one of the
    words that make up two thirds of all text, but the most frequent of the
    others, a different one in each text. Texts that are short, long or have
    unknown words are chosen only if there are no others.
    """
    if config.sentences or not prepared.roles["validation"].num_rows:
        return config.sentences
    tokenizer = prepared.tokenizer
    segments = [*_segments(prepared)]
    counts = np.bincount(
        np.concatenate(segments), minlength=tokenizer.vocabulary_size
    )
    order = np.argsort(-counts, kind="stable")
    above = np.cumsum(counts[order]) - counts[order]
    is_continuation = tokenizer.is_continuation
    may_hide = ~tokenizer.is_special & ~is_continuation
    may_hide &= [any(map(str.isalpha, word)) for word in tokenizer.vocabulary]
    may_hide[order[above < counts.sum() * 2 / 3]] = False
    found = []
    for segment in segments:
        ids = segment if len(segment) <= _MOST else segment[:_CUT]
        goes_on = np.append(is_continuation[ids[1:]], False)
        scores = np.where(may_hide[ids] & ~goes_on, counts[ids], 0)
        if scores.any():
            place = int(np.argmax(scores))
            flaws = np.count_nonzero(ids == tokenizer.special.unknown)
            flaws += int(is_continuation[ids[0]]) + (len(segment) > _MOST)
            found.append((len(ids) < _LEAST, flaws, ids, place))
    chosen: dict[int, str] = {}
    for _, _, ids, place in sorted(found, key=lambda item: item[:2]):
        before = tokenizer.decode(ids[:place])
        after = tokenizer.decode(ids[place + 1 :])
        text = f"{before} {tokenizer_lib.MASK} {after}".strip()
        chosen.setdefault(int(ids[place]), text)
    return tuple(chosen.values())[:_NUMBER]


def _segments(prepared: manifest.Prepared) -> Iterator[np.ndarray]:
    """The token ids of each text in the first validation rows."""
    number = min(_NUM_ROWS, prepared.roles["validation"].num_rows)
    rows = stream.validation_rows(prepared, global_batch_size=number)
    _, slots = next(iter(rows))
    batch = packing.unpack(slots)
    special = prepared.tokenizer.special
    for ids, numbers in zip(
        batch["token_ids"].numpy(), batch["segment_ids"].numpy(), strict=True
    ):
        is_text = ~np.isin(ids, [special.start, special.end])
        for segment in range(1, numbers.max() + 1):
            yield ids[(numbers == segment) & is_text]
