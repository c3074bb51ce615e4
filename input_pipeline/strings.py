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
# Removed by the Keras example; brackets stay, so that [mask] survives.
_PUNCTUATION = "!#$%&'()*+,-./:;<=>?@\\^_`{|}~"
# What joins the letters around it: apostrophes, and characters without a
# glyph. U+0307 is the dot that lower-casing leaves on the i of U+0130.
_INSIDE_WORDS = (
    r"['`\x{b4}\x{2bc}\x{2018}\x{2019}\x{307}\p{Cf}\x{fe00}-\x{fe0f}]+"
)
# What stands between words. The negated classes are punctuation but [ and ],
# and separators but the blank.
_BETWEEN_WORDS = r"(?:<br ?/?>|[^\PP\[\]]|[^\PZ ]|[\p{Sm}\p{Sc}\p{Sk}])+"
# Words of their own, such as emoji; or else a bracket that is not of [mask].
_APART = r"(\[mask\]|\p{So})|[\[\]]"
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
      kind: "unicode_word", "word" (the Keras example's) or "wordpiece".
      vocabulary: V tokens.
      special: their ids.
      is_special: bool [V]; ids that are never predicted, masked or drawn.
      layer: Keras', strings [N] to ids [N, (tokens)].
    """

    def __init__(self, kind: str, vocabulary: Sequence[str]) -> None:
        """Raises ValueError if a token is missing or there twice."""
        self.kind = kind
        self.vocabulary = list(vocabulary)
        if kind == "wordpiece":
            self.special, self.layer = _pieces(self.vocabulary)
        else:
            self.special, self.layer = _words(self.vocabulary, kind)
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
    """The Keras example's rule, on strings [...], for ASCII alone.

    Lower case, `<br />` to a space, punctuation removed.
    """
    texts = tf.strings.lower(texts)
    texts = tf.strings.regex_replace(texts, "<br />", " ")
    return tf.strings.regex_replace(texts, f"[{re.escape(_PUNCTUATION)}]", "")


@keras.saving.register_keras_serializable("cloze")
def standardize_unicode(texts: tf.Tensor) -> tf.Tensor:
    """Lower case, words apart, no punctuation; clean strings [N].

    Apostrophes vanish (don't becomes dont); all other punctuation and all
    mathematical and currency signs become blanks (well-made becomes two
    words), and any other symbol, such as an emoji, becomes a word.
    """
    # ASCII first: that is faster, and in a Turkish locale the I of "utf-8"
    # loses its dot.
    texts = tf.strings.lower(texts)
    other = tf.where(
        tf.strings.length(texts) > tf.strings.length(texts, unit="UTF8_CHAR")
    )
    texts = tf.tensor_scatter_nd_update(
        texts,
        other,
        tf.strings.lower(tf.gather_nd(texts, other), encoding="utf-8"),
    )
    texts = tf.strings.regex_replace(texts, _INSIDE_WORDS, "")
    texts = tf.strings.regex_replace(texts, _BETWEEN_WORDS, " ")
    return tf.strings.regex_replace(texts, _APART, r" \1 ")


# By kind of tokenizer.
STANDARDIZE = {"unicode_word": standardize_unicode, "word": standardize}


def _words(vocabulary: list[str], kind: str) -> tuple[SpecialIds, Any]:
    special = SpecialIds(padding=0, unknown=1, mask=len(vocabulary) - 1)
    return special, keras.layers.TextVectorization(
        standardize=STANDARDIZE[kind],
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
