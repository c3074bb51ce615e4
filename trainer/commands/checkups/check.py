"""What the doctor examines, and the line that comes of a check."""

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
    """A fault that a run survives; says what was found and what to do."""


@dataclasses.dataclass(eq=False)
class Case:
    """What is examined, and what one check leaves for those after it."""

    config: schema.Config
    workdir: str
    runtime: Runtime
    scratch: str  # A directory that goes away afterwards.
    strategy: Any = None  # Made by the check of the devices.
    has_text: bool = True  # False after the check of the text has failed.
    prepared: Any = None  # Opened by the check of the rows, if there are any.

    def require(self, found: object, name: str) -> None:
        """Raises Imperfect if another check has not found what it should."""
        if not found:
            raise Imperfect(f"not tried, as {name} is wrong; mend that first")


class Line(NamedTuple):
    """What became of a check."""

    verdict: str
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:<9}{self.name:<14}{self.text}"


def perform(check: Callable[[Case], str], case: Case) -> Line:
    """The line of a check, which returns what it found or raises."""
    name = check.__name__.replace("_", " ")
    try:
        return Line(OK, name, check(case))
    except Imperfect as doubt:
        return Line(WARNING, name, str(doubt))
    except Exception as error:
        return Line(WRONG, name, explain(error))


def explain(error: Exception) -> str:
    """What is wrong and what to do, in one line."""
    if os.environ.get("CLOZE_TRACEBACK") == "1":
        traceback.print_exception(error)
    text = str(error)
    if not isinstance(error, ValueError):
        text = refusals.explain(error) or (
            f"{type(error).__name__}: {text}; CLOZE_TRACEBACK=1 shows where"
        )
    return " ".join(text.split())
