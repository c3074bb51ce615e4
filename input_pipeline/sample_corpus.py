"""A labelled corpus of movie reviews from a grammar, without a download.

Context tells a hidden word: people, titles and the vocabulary of a genre stay
the same through a review, articles, pronouns and plurals agree, idioms repeat.
Context tells the sentiment: reviews quote, concede and negate the other side.

Words and templates lie in sample_corpus.json. Roles, enemies and props have
regular plurals there, and "an" stands before a vowel letter and nowhere else.
Star and companion share a gender, so that {he} may be either.

A template is English with slots. A slot holds one option of the table of that
name, or of the table with the sign of the sentiment, `fine+` or `fine-`:

    {place}      saloon
    {Place}      Saloon
    {a enemy}    an outlaw
    {!fine}      an option of the opposite sentiment
    {so acting}  superb, truly superb, anything but wooden
"""

import json
import pathlib
import random
import re
from collections.abc import Sequence
from typing import Any

SIZES = {"train": 12_000, "test": 1_000}  # Documents a split.
LABELS = ("negative", "positive")

# The program and its grammar decide every byte of the corpus.
FILES = (
    pathlib.Path(__file__),
    pathlib.Path(__file__).with_name("sample_corpus.json"),
)
_GRAMMAR = json.loads(FILES[1].read_bytes())
# A review holds sentences in this order, so that opinions follow the plot.
_BODY = tuple(
    _GRAMMAR[kind]
    for kind, number in (
        ("plot", 2),
        ("anecdotes", 1),
        ("opinions", 1),
        ("concessions", 2),
    )
    for _ in range(number)
)
_BREAKS = (" ",) * 15 + ("<br /><br />",)

_SLOT = re.compile(r"{(a |so )?(!?)(\w+)}")


class _Writer:
    """Fills templates with the people and things of one review."""

    def __init__(self, seed: str) -> None:
        # A string seed is hashed with sha512, and random() never changed: the
        # corpus is the same under every version of Python.
        self.uniform = random.Random(seed).random
        self.tables = _GRAMMAR["words"] | self.pick(_GRAMMAR["genres"])
        for person in ("costar", "director", "star"):
            # That of the star, the last one, remains.
            self.tables |= self.pick(_GRAMMAR["genders"])
            self.fix(person, "{given} {surname}")
        self.tables["surname"] = (self.tables["star"][0].split()[1],)
        self.fix("other", "{title}")
        for name in ("friend", "kind", "role", "enemy", "place", "title"):
            self.fix(name, f"{{{name}}}")

    def pick(self, options: Sequence[Any]) -> Any:
        return options[int(self.uniform() * len(options))]

    def fix(self, name: str, template: str) -> None:
        self.tables[name] = (self.fill(template, sign=""),)

    def fill(self, template: str, sign: str) -> str:
        return _SLOT.sub(lambda slot: self.option(slot, sign), template)

    def option(self, slot: re.Match[str], sign: str) -> str:
        prefix, opposite, name = slot.groups()
        if opposite:
            sign = "-" if sign == "+" else "+"
        if prefix == "so ":
            frame = self.pick(self.tables["so"])
            return self.fill(frame.replace("}", name + "}"), sign)
        table = name.lower()
        text = self.pick(self.tables.get(table) or self.tables[table + sign])
        text = self.fill(text, sign)
        if prefix == "a ":
            return f"an {text}" if text[0] in "aeiou" else f"a {text}"
        return text.title() if name[0].isupper() else text

    def review(self, sign: str) -> str:
        length = 1 + int(self.uniform() * 8)
        kinds = sorted(int(self.uniform() * len(_BODY)) for _ in range(length))
        body = dict.fromkeys(self.pick(_BODY[kind]) for kind in kinds)
        text = ""
        opening = self.pick(_GRAMMAR["openings"])
        for template in (opening, *body, self.pick(_GRAMMAR["verdicts"])):
            sentence = self.fill(template, sign)
            text += self.pick(_BREAKS) if text else ""
            text += sentence[0].upper() + sentence[1:]
        return text


def review(split: str, index: int) -> tuple[str, str]:
    """Text and label name of a document, a pure function of its arguments."""
    if index not in range(SIZES.get(split, 0)):
        raise ValueError(
            f"review({split!r}, {index!r}) does not exist; choose an index"
            f" below the size of a split: {SIZES}."
        )
    writer = _Writer(f"{split}/{index}")
    return writer.review("-+"[index % 2]), LABELS[index % 2]
