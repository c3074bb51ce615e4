"""Bytes to ids inside a TensorFlow graph: in training and in exported models.

N texts, V vocabulary.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

# What the user writes to have a word filled in.
MASK = "[MASK]"
# Removed by the word tokenizer; brackets stay, so that [mask] survives.
_PUNCTUATION = "!#$%&'()*+,-./:;<=>?@\\^_`{|}~"
PIECES_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", MASK)
# The same as in input_pipeline/cleaning.py, in RE2's spelling.
_REMOVED = r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\x{feff}"
_SEPARATOR = r"[\x{80}-\x{9f}]"
# All that str.strip removes, and the replacement character.
_BLANK = (
    r"[\s\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}"
    r"\x{3000}\x{fffd}]*"
)


@dataclasses.dataclass(frozen=True)
class SpecialIds:
    """Ids that are not text; -1 = the tokenizer has no such token."""

    padding: int
    unknown: int
    mask: int
    start: int = -1  # Opens every segment.
    end: int = -1  # Closes it.

    def ids(self) -> list[int]:
        """Those that exist, ascending."""
        return sorted(i for i in dataclasses.astuple(self) if i >= 0)

    @property
    def num_wrapping(self) -> int:
        """Slots that start and end take of every segment: 0 or 2."""
        return (self.start >= 0) + (self.end >= 0)


class Codec:
    """The part of a tokenizer that works in a graph.

    Attributes:
      kind: "word" or "wordpiece".
      vocabulary: V tokens.
      special: their ids.
      is_special: bool [V]; ids that are never predicted, masked or drawn.
      layer: Keras', strings [N] to ids [N, (tokens)].
    """

    def __init__(self, kind: str, vocabulary: Sequence[str]) -> None:
        """Raises ValueError if a token is missing or there twice."""
        create = {"word": _words, "wordpiece": _pieces}[kind]
        self.kind = kind
        self.vocabulary = list(vocabulary)
        self.special, self.layer = create(self.vocabulary)
        self.is_special = np.zeros(len(self.vocabulary), bool)
        self.is_special[self.special.ids()] = True
        # In a graph: called eagerly, KerasHub's gives no ragged tensor.
        self._call_layer = tf.function(
            lambda texts: tf.cast(self.layer(texts), tf.int32),
            input_signature=[tf.TensorSpec([None], tf.string)],
            autograph=False,
        )

    def ids(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Ids of strings [N] as int32 [N, (tokens)]; MASK becomes its id."""
        return self._call_layer(texts)

    def document_ids(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The same for clean text, in which special tokens are plain text.

        A slot that looks masked but is not predicted would teach nonsense.
        """
        if self.kind == "wordpiece":
            texts = tf.strings.regex_replace(texts, r"\[", "[ ")
        ids = self.ids(texts)
        is_mask = ids.values == self.special.mask
        return ids.with_values(
            tf.where(is_mask, self.special.unknown, ids.values)
        )

    def prompt_ids(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The same for clean text in which MASK is to be filled in."""
        if self.kind == "wordpiece":
            others = "|".join(s.strip("[]") for s in PIECES_SPECIAL[:-1])
            texts = tf.strings.regex_replace(
                texts, rf"\[({others})\]", r"[ \1]"
            )
        # Apart from its neighbours, such as quotes.
        return self.ids(
            tf.strings.regex_replace(texts, re.escape(MASK), f" {MASK} ")
        )


def clean(raw: tf.Tensor) -> tf.Tensor:
    """Bytes [N] to clean text [N]: what `cleaning.clean` makes of them.

    A carriage return stays, as white space to every tokenizer.
    """
    texts = tf.strings.unicode_transcode(
        raw, "UTF-8", "UTF-8", errors="replace", replacement_char=0xFFFD
    )
    texts = tf.strings.regex_replace(texts, _REMOVED, "")
    texts = tf.strings.regex_replace(texts, _SEPARATOR, " ")
    return tf.where(tf.strings.regex_full_match(texts, _BLANK), "", texts)


@keras.saving.register_keras_serializable("cloze")
def standardize(texts: tf.Tensor) -> tf.Tensor:
    """Lower case, `<br />` to a space, punctuation removed; strings [...]."""
    texts = tf.strings.lower(texts)
    texts = tf.strings.regex_replace(texts, "<br />", " ")
    return tf.strings.regex_replace(texts, f"[{re.escape(_PUNCTUATION)}]", "")


def _words(vocabulary: list[str]) -> tuple[SpecialIds, Any]:
    special = SpecialIds(padding=0, unknown=1, mask=len(vocabulary) - 1)
    return special, keras.layers.TextVectorization(
        standardize=standardize,
        split="whitespace",
        output_mode="int",
        ragged=True,
        vocabulary=vocabulary[2:],
        name="words",
    )


def _pieces(vocabulary: list[str]) -> tuple[SpecialIds, Any]:
    import keras_hub

    pad, unknown, start, end, mask = map(vocabulary.index, PIECES_SPECIAL)
    special = SpecialIds(
        padding=pad, unknown=unknown, mask=mask, start=start, end=end
    )
    return special, keras_hub.tokenizers.WordPieceTokenizer(
        vocabulary,
        lowercase=True,
        strip_accents=True,
        special_tokens=list(PIECES_SPECIAL),
        special_tokens_in_strings=True,
        dtype="int32",
        name="pieces",
    )
