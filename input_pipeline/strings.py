"""Bytes to ids inside a TensorFlow graph: in training and in exported models.

N texts, V vocabulary.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from input_pipeline import wordpiece

# What the user writes to have a word filled in.
MASK = "[MASK]"
# Removed by the Keras example; brackets stay, so that [mask] survives.
_PUNCTUATION = "!#$%&'()*+,-./:;<=>?@\\^_`{|}~"
# What joins the letters around it: apostrophes, and characters without a
# glyph. U+0307 is the dot that lower-casing leaves on the i of U+0130.
_INSIDE_WORDS = (
    r"['`\x{b4}\x{2bc}\x{2018}\x{2019}\x{307}\p{Cf}\x{fe00}-\x{fe0f}]"
)
# What stands between words. The negated classes are punctuation but [ and ],
# and separators but the blank.
_BREAK = "<br ?/?>"
_BETWEEN_WORDS = rf"(?:{_BREAK}|[^\PP\[\]]|[^\PZ ]|[\p{{Sm}}\p{{Sc}}\p{{Sk}}])+"
# Words of their own, such as emoji and, with their marks, the characters of
# Chinese and Japanese; or else a bracket that is not of [mask].
_SYLLABLE = r"[\p{Han}\p{Hiragana}\p{Katakana}\x{30fc}\x{ff70}]"
_MARKS = r"[\p{M}\x{ff9e}\x{ff9f}]"
_APART = rf"(\[mask\]|\p{{So}}|{_SYLLABLE}{_MARKS}*)|[\[\]]"
# Kind of words -> where slices of a text end (see `Codec.slices`): behind what
# stands between words, and around what is a word of its own.
_ENDS = {
    "word": (r"(?i:<br />)|\s+", ""),
    "unicode_word": (
        rf"(?i:{_BREAK})|\s+",
        rf"(?:\p{{So}}{_INSIDE_WORDS}*"
        rf"|{_SYLLABLE}(?:{_MARKS}|{_INSIDE_WORDS})*)\s*",
    ),
}
_END = "\x01"  # No clean text has it.
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
      lowercase: whether upper case is made lower case.
      vocabulary: V tokens.
      special: their ids.
      is_special: bool [V]; ids that are never predicted, masked or drawn.
      tables: what an exported graph must hold on to.
    """

    def __init__(
        self, kind: str, vocabulary: Sequence[str], *, lowercase: bool = True
    ) -> None:
        """Raises ValueError if a token is missing or there twice."""
        self.kind, self.lowercase = kind, lowercase
        self.vocabulary = list(vocabulary)
        if kind == "wordpiece":
            self.special, self._split = _pieces(self.vocabulary, lowercase)
            self.tables = self._split.tables
            self._ends = self._split.ends
        else:
            rule = standardizer(kind, lowercase)
            self.special, self._split = _words(self.vocabulary, rule)
            self.tables = [self._split]
            self._ends = _ENDS[kind]
        self.is_special = np.zeros(len(self.vocabulary), bool)
        self.is_special[self.special.ids()] = True

    def document_ids(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Ids of clean strings [N], as int32 [N, (tokens)].

        Special tokens are plain text: a slot that looks masked but is not
        predicted would teach nonsense.
        """
        ids = tf.cast(self._split(texts), tf.int32)
        is_mask = ids.values == self.special.mask
        return ids.with_values(
            tf.where(is_mask, self.special.unknown, ids.values)
        )

    def slices(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """Cuts clean strings [N] into words, strings [N, (slices)], none empty.

        Joined, they are the text, and their ids are the ids of the text: a
        slice is a word and the punctuation and blanks at its side, or what is
        a word of its own without a blank, such as a Chinese character.
        """
        behind, around = self._ends
        if around:
            texts = tf.strings.regex_replace(texts, around, rf"{_END}\0{_END}")
        texts = tf.strings.regex_replace(texts, behind, rf"\0{_END}")
        slices = tf.strings.split(texts, sep=_END)
        return tf.ragged.boolean_mask(slices, slices != "")

    def prompt_ids(self, texts: tf.Tensor) -> tf.RaggedTensor:
        """The same for clean text in which MASK is to be filled in."""
        # Apart from its neighbours, such as quotes.
        texts = tf.strings.regex_replace(texts, re.escape(MASK), f" {MASK} ")
        if self.kind == "wordpiece":
            return self._split(texts, is_prompt=True)
        return tf.cast(self._split(texts), tf.int32)


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


def standardize(texts: tf.Tensor) -> tf.Tensor:
    """The Keras example's rule, on strings [...], for ASCII alone.

    Lower case, `<br />` to a space, punctuation removed.
    """
    texts = tf.strings.lower(texts)
    texts = tf.strings.regex_replace(texts, "<br />", " ")
    return tf.strings.regex_replace(texts, f"[{re.escape(_PUNCTUATION)}]", "")


def standardize_unicode(
    texts: tf.Tensor, *, lowercase: bool = True
) -> tf.Tensor:
    """Words apart, no punctuation, lower case if wanted; clean strings [N].

    Apostrophes vanish (don't becomes dont); all other punctuation and all
    mathematical and currency signs become blanks (well-made becomes two
    words), and any other symbol, such as an emoji, becomes a word, as does
    every character of Chinese and Japanese.
    """
    if lowercase:
        texts = _lower(texts)
    else:
        texts = tf.strings.regex_replace(texts, re.escape(MASK), MASK.lower())
    texts = tf.strings.regex_replace(texts, f"{_INSIDE_WORDS}+", "")
    texts = tf.strings.regex_replace(texts, _BETWEEN_WORDS, " ")
    return tf.strings.regex_replace(texts, _APART, r" \1 ")


def standardizer(
    kind: str, lowercase: bool
) -> Callable[[tf.Tensor], tf.Tensor]:
    """What a tokenizer of words does to strings [N] before it splits them."""
    if kind == "word":
        return standardize
    return functools.partial(standardize_unicode, lowercase=lowercase)


def _lower(texts: tf.Tensor) -> tf.Tensor:
    # ASCII first: that is faster, and in a Turkish locale the I of "utf-8"
    # loses its dot.
    texts = tf.strings.lower(texts)
    other = tf.where(
        tf.strings.length(texts) > tf.strings.length(texts, unit="UTF8_CHAR")
    )
    return tf.tensor_scatter_nd_update(
        texts,
        other,
        tf.strings.lower(tf.gather_nd(texts, other), encoding="utf-8"),
    )


def _words(
    vocabulary: list[str], rule: Callable[[tf.Tensor], tf.Tensor]
) -> tuple[SpecialIds, Any]:
    special = SpecialIds(padding=0, unknown=1, mask=len(vocabulary) - 1)
    return special, keras.layers.TextVectorization(
        standardize=rule,
        split="whitespace",
        output_mode="int",
        ragged=True,
        vocabulary=vocabulary[2:],
        name="words",
    )


def _pieces(
    vocabulary: list[str], lowercase: bool
) -> tuple[SpecialIds, wordpiece.WordPieces]:
    pad, unknown, start, end, mask = map(vocabulary.index, PIECES_SPECIAL)
    special = SpecialIds(
        padding=pad, unknown=unknown, mask=mask, start=start, end=end
    )
    return special, wordpiece.WordPieces(
        vocabulary, unknown=unknown, mask=MASK, lowercase=lowercase
    )
