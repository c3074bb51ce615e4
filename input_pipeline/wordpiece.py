"""BERT's word pieces in a graph, with operations of TensorFlow's own alone.

The ids are those of Hugging Face's `BertTokenizer`. What happens to a
character does not depend on its neighbours, so the rules are taken from the
package `tokenizers`, which learns the vocabulary by them, too: one table and
three classes of characters, which an exported model carries along.

N texts, W words, S basic words: what stands between blanks and punctuation.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

MAX_CHARACTERS = 100  # BERT makes longer words unknown.
CONTINUATION = "##"
_NONE = -1
# Code points that may be characters; the others are unassigned or private.
_ASSIGNED = (range(0xD800), range(0xE000, 0x32000), range(0xE0000, 0xE1000))
_UNASSIGNED = "\U00050000"


class _Rules(NamedTuple):
    """What becomes of single characters; classes are RE2's.

    Attributes:
      blank: white space.
      removed: control characters and, in lower case, accents.
      apart: words of their own, punctuation and Chinese characters.
      replaced: by lower case, or by the letter without its accents.
    """

    blank: str
    removed: str
    apart: str
    replaced: dict[str, str]


class WordPieces:
    """Splits strings into the longest known pieces.

    Attributes:
      tables: what an exported graph must hold on to.
    """

    def __init__(
        self,
        vocabulary: Sequence[str],
        *,
        unknown: int,
        mask: str,
        lowercase: bool,
    ) -> None:
        """Makes the tables.

        Args:
          vocabulary: the pieces by id.
          unknown: the id of a word that cannot be split.
          mask: the token that a prompt may hold.
          lowercase: whether case and accents are dropped.

        Raises:
          ValueError: a piece is there twice.
        """
        if len(set(vocabulary)) < len(vocabulary):
            raise ValueError("a word piece is there twice")
        self._rules = _rules(lowercase)
        self._ids = _table({t: i for i, t in enumerate(vocabulary)}, _NONE)
        self.tables = [self._ids]
        if self._rules.replaced:
            self._replaced = _table(self._rules.replaced, "")
            self.tables.append(self._replaced)
        self._unknown, self._mask = unknown, mask
        longest = max(len(t.removeprefix(CONTINUATION)) for t in vocabulary)
        self._longest = min(longest, MAX_CHARACTERS)

    @property
    def ends(self) -> tuple[str, str]:
        """What follows a basic word, and what is one, with what follows it."""
        blank, apart = self._rules.blank, self._rules.apart
        return f"{blank}+", f"{apart}{blank}*"

    def __call__(
        self, texts: tf.Tensor, *, is_prompt: bool = False
    ) -> tf.RaggedTensor:
        """Ids of clean strings [N] as int32 [N, (pieces)].

        The mask token becomes its id in prompts, between blanks; every other
        special token is text.
        """
        spaced = tf.strings.regex_replace(texts, self._rules.blank, " ")
        words = tf.strings.split(spaced)
        # Everything else happens to a word, whatever stands beside it.
        distinct, place = tf.unique(words.values)
        basic = self._basic_words(distinct, is_prompt)
        some, some_place = tf.unique(basic.values)
        ids = basic.with_values(tf.gather(self._split(some), some_place))
        ids = tf.gather(ids.merge_dims(1, 2), place)
        return words.with_values(ids).merge_dims(1, 2)

    def _basic_words(
        self, words: tf.Tensor, is_prompt: bool
    ) -> tf.RaggedTensor:
        """The basic words of words [W] as strings [W, (basic words)]."""
        normal = tf.strings.regex_replace(words, self._rules.removed, "")
        if self._rules.replaced:
            characters = tf.strings.unicode_split(normal, "UTF-8")
            found = self._replaced.lookup(characters.values)
            found = tf.where(found == "", characters.values, found)
            found = characters.with_values(found)
            normal = tf.strings.reduce_join(found, axis=1)
        normal = tf.strings.regex_replace(normal, self._rules.apart, r" \0 ")
        if is_prompt:
            normal = tf.where(words == self._mask, words, normal)
        return tf.strings.split(normal)

    def _split(self, words: tf.Tensor) -> tf.RaggedTensor:
        """Ids of basic words [S] as int32 [S, (pieces)]."""
        sizes = tf.strings.length(words, unit="UTF8_CHAR")
        first = tf.where(
            sizes > MAX_CHARACTERS, self._unknown, self._ids.lookup(words)
        )
        rest = tf.cast(tf.where(first == _NONE)[:, 0], tf.int32)

        def step(
            rest: tf.Tensor, start: tf.Tensor, pieces: tf.Tensor
        ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
            """The longest next piece of the words that are not at their end.

            Args:
              rest: their places, int32 [R].
              start: the character at which it begins, int32 [R].
              pieces: int32 [S, K], the ids so far; `_NONE` where there is none.
            """
            left = tf.gather(sizes, rest) - start
            most = tf.minimum(self._longest, tf.reduce_max(left))
            lengths = tf.range(1, most + 1)
            # Those of the rest of a word and of more are the same.
            parts = tf.strings.substr(
                tf.gather(words, rest)[:, tf.newaxis],
                *tf.meshgrid(start, lengths, indexing="ij"),
                unit="UTF8_CHAR",
            )
            mark = tf.where(start > 0, CONTINUATION, "")[:, tf.newaxis]
            ids = self._ids.lookup(mark + parts)
            length = tf.reduce_max(
                tf.where(ids == _NONE, 0, lengths[tf.newaxis]), axis=1
            )
            is_known = length > 0
            piece = tf.gather(ids, tf.maximum(length - 1, 0), batch_dims=1)
            piece = tf.where(is_known, piece, self._unknown)
            column = tf.tensor_scatter_nd_update(
                tf.fill(tf.shape(words), _NONE), rest[:, tf.newaxis], piece
            )
            goes_on = is_known & (length < left)
            return (
                tf.boolean_mask(rest, goes_on),
                tf.boolean_mask(start + length, goes_on),
                tf.concat([pieces, column[:, tf.newaxis]], axis=1),
            )

        _, _, pieces = tf.while_loop(
            lambda rest, *_: tf.size(rest) > 0,
            step,
            (rest, tf.zeros_like(rest), first[:, tf.newaxis]),
            shape_invariants=(
                tf.TensorShape([None]),
                tf.TensorShape([None]),
                tf.TensorShape([None, None]),
            ),
        )
        # One part that is unknown makes the word so.
        is_unknown = tf.reduce_any(pieces == self._unknown, 1, keepdims=True)
        is_kept = (pieces == self._unknown) | ~is_unknown
        return tf.ragged.boolean_mask(pieces, is_kept & (pieces != _NONE))


def learner(lowercase: bool) -> Any:
    """Learns a vocabulary by the rules of this module; of `tokenizers`."""
    import tokenizers

    return tokenizers.BertWordPieceTokenizer(
        lowercase=lowercase, strip_accents=lowercase
    )


@functools.cache
def _rules(lowercase: bool) -> _Rules:
    """The rules, from what the learner does to every single character."""
    reference = learner(lowercase)
    characters = [chr(code) for codes in _ASSIGNED for code in codes]
    # Between them one that no rule touches, so that each stands alone.
    joined = _UNASSIGNED.join(characters)
    normal = reference.normalize(joined).split(_UNASSIGNED)
    joined = "x".join(one for one in normal if " " not in one)
    words = reference.pre_tokenizer.pre_tokenize_str(joined)
    punctuation = {word for word, _ in words} - {"x"}
    classes: dict[str, list[str]] = {"blank": [], "removed": [], "apart": []}
    replaced = {}
    for character, one in zip(characters, normal, strict=True):
        if not one or one == " ":
            classes["blank" if one else "removed"].append(character)
        elif one == f" {character} " or character in punctuation:
            classes["apart"].append(character)
        elif one != character:
            replaced[character] = one
    return _Rules(
        blank=_class(classes["blank"]),
        removed=_class(classes["removed"], r"\p{Co}"),
        apart=_class(classes["apart"]),
        replaced=replaced,
    )


def _class(characters: Sequence[str], more: str = "") -> str:
    """A class of RE2 for ascending characters."""
    ranges: list[list[int]] = []
    for code in map(ord, characters):
        if ranges and ranges[-1][1] == code - 1:
            ranges[-1][1] = code
        else:
            ranges.append([code, code])
    listed = "".join(rf"\x{{{a:x}}}-\x{{{b:x}}}" for a, b in ranges)
    return f"[{more}{listed}]"


def _table(
    values: dict[str, str] | dict[str, int], default: str | int
) -> tf.lookup.StaticHashTable:
    dtype = tf.string if isinstance(default, str) else tf.int32
    return tf.lookup.StaticHashTable(
        tf.lookup.KeyValueTensorInitializer(
            [*values], [*values.values()], tf.string, dtype
        ),
        default,
    )
