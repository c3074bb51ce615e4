"""Every field of the config with what it means, from the comments beside it.

python -m configs.knobs > docs/knobs.md
"""

import dataclasses
import inspect
import re
import typing
from collections.abc import Iterator
from typing import Any, NamedTuple

from configs import schema

# The comments above a field, its name, and the comment beside it.
_FIELD = re.compile(r"((?:^    #.*\n)*)^    (\w+): .*?(#.*)?$", re.MULTILINE)
_PREFACE = (
    "`--config.train.num_steps=100` sets `train.num_steps`. The defaults are",
    "those of the schema; a recipe (`configs/`) may have others. When a knob",
    "changes, what it decides is made anew; a knob that decides nothing",
    "changes speed, places, lengths or what is shown.",
)


class Knob(NamedTuple):
    """A field of the config.

    Attributes:
      name: such as "train.num_steps".
      kind: bool, int, float, str or tuple.
      default: its value in the schema.
      meaning: one or two sentences, or "".
    """

    name: str
    kind: type
    default: Any
    meaning: str


def _knobs(section: Any, prefix: str = "") -> Iterator[Knob]:
    comments = {
        name: " ".join(re.findall("# (.*)", above + beside))
        for above, name, beside in _FIELD.findall(inspect.getsource(section))
    }
    values = section()
    for name, kind in typing.get_type_hints(section).items():
        if dataclasses.is_dataclass(kind):
            yield from _knobs(kind, f"{prefix}{name}.")
        else:
            kind, value = typing.get_origin(kind) or kind, getattr(values, name)
            yield Knob(f"{prefix}{name}", kind, value, comments.get(name, ""))


KNOBS = [*_knobs(schema.Config)]


def page() -> str:
    """A page in Markdown with a table for each section of the config."""
    lines = ["# Every knob", "", *_PREFACE]
    section = None
    for knob in KNOBS:
        before, (section, _, field) = section, knob.name.rpartition(".")
        if section != before:
            title = f"`{section}`" if section else "The run"
            kind = typing.get_type_hints(schema.Config).get(section)
            about = (inspect.getdoc(kind) or "").splitlines() if kind else []
            lines += ["", f"## {title}", "", *about, *[""] * bool(about)]
            lines += [
                "| knob | default | meaning | decides |",
                "|---|---|---|---|",
            ]
        meaning = knob.meaning.replace("|", "\\|")
        decides = schema.decides(knob.name)
        lines.append(
            f"| `{field}` | `{knob.default!r}` | {meaning} | {decides} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(page(), end="")
