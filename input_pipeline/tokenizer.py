"""Text to ids and back: whole words, or word pieces.

What works inside a graph is in strings.py, for an exported model to carry
along. V is the size of the vocabulary.
"""

import collections
import functools
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

import storage
from configs import schema
from input_pipeline import strings, wordpiece

MASK = strings.MASK
SpecialIds = strings.SpecialIds
_FILE = "vocabulary.json"
# Rarer ones become unknown; most of Unicode would otherwise fill V.
_MAX_CHARACTERS = 1000


class Tokenizer:
    """A vocabulary and the way into it."""

    kind: str

    def __init__(self, vocabulary: Sequence[str], *, lowercase: bool = True):
        self.codec = strings.Codec(self.kind, vocabulary, lowercase=lowercase)
        self.lowercase = lowercase
        self.vocabulary = self.codec.vocabulary
        self.special = self.codec.special
        self.is_special = self.codec.is_special
        self._encode_in_graph = _string_function(self.codec.document_ids)
        self._encode_prompt = _string_function(self.codec.prompt_ids)

    @property
    def vocabulary_size(self) -> int:
        """V."""
        return len(self.vocabulary)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the ids that it gives; JSON."""
        return {
            "kind": self.kind,
            "lowercase": self.lowercase,
            "sha256": storage.sha256_json(self.vocabulary),
        }

    @property
    def is_continuation(self) -> np.ndarray:
        """bool [V]: pieces that go on with the word before them."""
        mark = wordpiece.CONTINUATION
        return np.array([t.startswith(mark) for t in self.vocabulary], bool)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of documents, int32 [tokens] each, without start and end.

        A document that spells the mask token out does not get its id.
        """
        ragged = self._encode_in_graph(tf.constant(list(texts), tf.string))
        values = ragged.values.numpy()
        splits = ragged.row_splits.numpy()
        return [
            values[start:stop]
            for start, stop in zip(splits[:-1], splits[1:], strict=True)
        ]

    def encode_prompt(self, text: str) -> np.ndarray:
        """Ids of one text with MASK in it, int32 [tokens], start to end."""
        ragged = self._encode_prompt(tf.constant([text]))
        return self.wrap(ragged.values.numpy())

    def wrap(self, ids: np.ndarray) -> np.ndarray:
        """`ids` between the start and end tokens, where there are such."""
        before = [self.special.start] if self.special.start >= 0 else []
        after = [self.special.end] if self.special.end >= 0 else []
        return np.concatenate([before, ids, after]).astype(np.int32)

    @property
    def num_wrapping(self) -> int:
        """Slots that start and end take of every segment: 0 or 2."""
        return self.special.num_wrapping

    def decode(self, ids: Iterable[int]) -> str:
        """Readable text; padding, start and end are left out."""
        silent = {self.special.padding, self.special.start, self.special.end}
        words = " ".join(
            self.vocabulary[i] for i in map(int, ids) if i not in silent
        )
        return words.replace(f" {wordpiece.CONTINUATION}", "")

    def save(self, directory: pathlib.Path) -> None:
        """Writes the vocabulary file."""
        content = {
            "kind": self.kind,
            "lowercase": self.lowercase,
            "vocabulary": self.vocabulary,
        }
        text = json.dumps(content, ensure_ascii=False, indent=0)
        (directory / _FILE).write_text(text + "\n", encoding="utf-8")


class WordTokenizer(Tokenizer):
    """The Keras example's: ASCII in lower case and without punctuation.

    Ids: 0 padding, 1 unknown, the words by frequency, the mask last.
    """

    kind = "word"

    @classmethod
    def from_counts(
        cls,
        counts: collections.Counter[str],
        size: int,
        *,
        lowercase: bool = True,
    ) -> "WordTokenizer":
        """The `size` - 3 most frequent words, and three special ids."""
        counts = counts.copy()
        del counts[MASK.lower()]
        words = [word for word, _ in _ranked(counts)[: size - 3]]
        return cls(["", "[UNK]", *words, MASK.lower()], lowercase=lowercase)


class UnicodeWordTokenizer(WordTokenizer):
    """The same for the words of all of Unicode."""

    kind = "unicode_word"


class WordPieceTokenizer(Tokenizer):
    """BERT's: words split into the longest known pieces."""

    kind = "wordpiece"

    @classmethod
    def learn(
        cls,
        texts: Iterable[str],
        *,
        characters: Iterable[str],
        size: int,
        lowercase: bool = True,
    ) -> "WordPieceTokenizer":
        """A vocabulary of at most `size` pieces, from documents.

        The same documents give the same vocabulary: the learner numbers
        continuing characters as it meets them in a hash table and breaks
        ties by number, so they are all numbered beforehand.

        Args:
          texts: the documents; read once.
          characters: those of the documents, most frequent first.
          size: V, at most.
          lowercase: whether case and accents are dropped.

        Raises:
          ValueError: the characters alone are more.
        """
        learner = wordpiece.learner(lowercase)
        alphabet = _normal_characters(characters, learner)
        least = len(strings.PIECES_SPECIAL) + 2 * len(alphabet)
        if size < least:
            raise ValueError(
                f"tokenizer.vocabulary_size={size} is too small: the text has"
                f" {len(alphabet)} characters, which take two word pieces each;"
                f" use {least} or more."
            )
        learner.train_from_iterator(
            texts,
            vocab_size=size,
            min_frequency=2,
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            special_tokens=[
                *strings.PIECES_SPECIAL,
                *(wordpiece.CONTINUATION + c for c in alphabet),
            ],
            show_progress=False,
        )
        ids = learner.get_vocab()
        most = wordpiece.MAX_CHARACTERS  # No word has a longer piece.
        return cls(
            [
                piece
                for piece in sorted(ids, key=ids.__getitem__)
                if len(piece.removeprefix(wordpiece.CONTINUATION)) <= most
            ],
            lowercase=lowercase,
        )


def create(
    kind: str, vocabulary: Sequence[str], *, lowercase: bool = True
) -> Tokenizer:
    """The tokenizer of a kind, with a vocabulary."""
    return _KINDS[kind](vocabulary, lowercase=lowercase)


def load(directory: str | pathlib.Path) -> Tokenizer:
    """The tokenizer that `Tokenizer.save` wrote; raises DamagedError."""
    path = storage.path_of(directory) / _FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return create(
            content["kind"],
            content["vocabulary"],
            # Earlier versions knew nothing else, and did not say so.
            lowercase=content.get("lowercase", True),
        )
    except FileNotFoundError as error:
        raise storage.DamagedError(f"{path} is missing.") from error
    except (KeyError, TypeError, ValueError) as error:
        raise storage.DamagedError(f"{path} is damaged: {error}.") from error


@functools.cache
def load_once(directory: str) -> Tokenizer:
    """The same; a process that encodes many units reads it once."""
    return load(directory)


def learn(
    config: schema.TokenizerConfig,
    *,
    counts: collections.Counter[str],
    texts: Iterable[str],
) -> Tokenizer:
    """A tokenizer of the configured kind.

    Args:
      config: the section `tokenizer`.
      counts: from `count`, over all documents to learn from.
      texts: those documents; only read for word pieces.
    """
    tokenizer: Tokenizer
    cls = _KINDS[config.kind]
    if issubclass(cls, WordTokenizer):
        tokenizer = cls.from_counts(
            counts, config.vocabulary_size, lowercase=config.lowercase
        )
    else:
        tokenizer = WordPieceTokenizer.learn(
            texts,
            characters=[item for item, _ in _ranked(counts)],
            size=config.vocabulary_size,
            lowercase=config.lowercase,
        )
    if tokenizer.is_special.all():
        raise ValueError(
            "The text holds no word at all after cleaning (only white space"
            " or punctuation?); check data.path and data.text_field."
        )
    return tokenizer


def count(
    config: schema.TokenizerConfig, texts: Sequence[str]
) -> collections.Counter[str]:
    """What such a tokenizer is learned from: words or characters."""
    if config.kind == "wordpiece":
        return collections.Counter("".join(texts))
    standardize = _standardize_in_graph(config.kind, config.lowercase)
    standard = standardize(tf.constant(list(texts), tf.string))
    # tf.strings.split and bytes.split agree on what is white space.
    words = b" ".join(standard.numpy().tolist()).split()
    counts = collections.Counter(words)
    return collections.Counter(
        {word.decode(): number for word, number in counts.items()}
    )


def _ranked(counts: collections.Counter[str]) -> list[tuple[str, int]]:
    """The most frequent first; equal counts in alphabetical order."""
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _normal_characters(characters: Iterable[str], learner: Any) -> list[str]:
    """The first thousand characters, as `learner` sees them."""
    normal = (learner.normalize(item) for item in characters)
    distinct = dict.fromkeys(
        c for item in normal for c in item if not c.isspace()
    )
    return list(distinct)[:_MAX_CHARACTERS]


@functools.cache
def _standardize_in_graph(
    kind: str, lowercase: bool
) -> Callable[[tf.Tensor], Any]:
    return _string_function(strings.standardizer(kind, lowercase))


def _string_function(
    function: Callable[[tf.Tensor], Any],
) -> Callable[[tf.Tensor], Any]:
    return tf.function(
        function, input_signature=[tf.TensorSpec([None], tf.string)]
    )


_KINDS: dict[str, type[Tokenizer]] = {
    cls.kind: cls
    for cls in (UnicodeWordTokenizer, WordTokenizer, WordPieceTokenizer)
}
