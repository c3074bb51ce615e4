"""A check, what it looks at, and the line that comes of it."""

import dataclasses
import os
import traceback
from collections.abc import Callable
from typing import Any, NamedTuple

from configs import schema
from configs.runtime import Runtime
from trainer import refusals

OK, WARNING, WRONG = "ok", "warning", "wrong"


class Imperfect(Exception):
    """What a run survives; says what was found and what to do."""


@dataclasses.dataclass(eq=False)
class Case:
    """What is examined, and what one check leaves for those after it."""

    config: schema.Config
    workdir: str
    runtime: Runtime
    scratch: str  # A directory that goes away afterwards.
    strategy: Any = None  # From "devices".
    prepared: Any = None  # From "rows", where there are some.


class Check(NamedTuple):
    """One line of the doctor.

    Attributes:
      name: begins the line.
      find: returns what was found; raises Imperfect, or anything else, whose
        text says what is wrong and what to do.
      needs: the check without which this one cannot be tried.
    """

    name: str
    find: Callable[[Case], str]
    needs: str = ""


class Line(NamedTuple):
    """What became of a check."""

    verdict: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<9}{self.name:<14}{self.text}"


def perform(check: Check, case: Case) -> Line:
    """The line of a check, whatever it raises."""
    try:
        return Line(OK, check.name, check.find(case))
    except Imperfect as doubt:
        return Line(WARNING, check.name, str(doubt))
    except Exception as error:
        return failed(check.name, error)


def failed(name: str, error: Exception) -> Line:
    """The line of a check that raised this."""
    if os.environ.get("CLOZE_TRACEBACK") == "1":
        traceback.print_exception(error)
    return Line(WRONG, name, told(error))


def told(error: Exception) -> str:
    """What an exception says, in one line."""
    text = str(error)
    if not isinstance(error, ValueError):
        text = refusals.explain(error) or (
            f"{type(error).__name__}: {text}; CLOZE_TRACEBACK=1 shows where"
        )
    return " ".join(text.split())
