"""`--mode=doctor`: whether this machine is ready, a line for every check."""

import dataclasses
import functools
import os
import tempfile
import traceback
from typing import Any

from configs import automatic, schema
from configs.runtime import Runtime
from input_pipeline import processes
from trainer import preflight, refusals

# Module of checkups -> its functions. A module is imported when its turn comes:
# the first does without TensorFlow, which may be what is missing.
CHECKS = {
    "installation": ("python", "packages"),
    "devices": ("devices", "batch", "xla", "bfloat16", "all_reduce"),
    "files": ("workdir", "space", "data", "rows", "masks"),
    "small_model": ("initial_loss", "one_batch", "layout"),
}
# Check -> the check that has to be right before it is tried.
NEEDS = dict.fromkeys(("batch", "xla", "bfloat16", "all_reduce"), "devices")
NEEDS |= {"initial_loss": "devices", "one_batch": "devices", "rows": "data"}


class CheckWarning(Exception):
    """A fault that a run survives; says what was found and what to do."""


@dataclasses.dataclass(eq=False)
class Case:
    """What is examined."""

    config: schema.Config
    workdir: str
    runtime: Runtime
    scratch: str  # A directory that is removed afterwards.

    @functools.cached_property
    def run(self) -> Any:
        """The `Run` to come. Only checks that need TensorFlow ask for it."""
        from trainer.run import Run

        return Run(self.config, workdir=self.workdir, runtime=self.runtime)


def run(config: schema.Config, *, workdir: str, runtime: Runtime) -> None:
    """Prints a line for every check, as it is done; changes nothing.

    A check returns what it found, or raises. This mode takes no `Run`, because
    TensorFlow may be what is missing.

    Raises:
      ValueError: something is wrong; its lines have said what.
    """
    try:
        config = preflight.fitted(config)
    except ValueError:  # The check of the text says what is wrong with it.
        config = automatic.fitted(config, automatic.TYPICAL)
    wrong = list[str]()
    with tempfile.TemporaryDirectory(prefix="cloze-doctor-") as scratch:
        case = Case(config, workdir, runtime, scratch)
        for group, name in ((g, name) for g in CHECKS for name in CHECKS[g]):
            module = f"trainer.commands.checkups.{group}"
            try:
                if NEEDS.get(name) in wrong:
                    raise CheckWarning(f"not tried, as {NEEDS[name]} is wrong")
                check = getattr(processes.import_module(module), name)
                verdict, text = "ok", check(case)
            except CheckWarning as warning:
                verdict, text = "warning", str(warning)
            except Exception as error:
                verdict, text = "wrong", explain(error)
                wrong.append(name)
            print(f"{verdict:<9}{name:<14}{text}", flush=True)
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {sum(map(len, CHECKS.values()))} checks found"
            f" something wrong: {', '.join(wrong)}. Their lines say what to do."
        )


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
