"""`--mode=doctor`: whether this machine is ready, a line for every check."""

import tempfile
from collections.abc import Iterator, Sequence

from configs import automatic, schema
from configs.runtime import Runtime
from input_pipeline import processes
from trainer import preflight
from trainer.commands.checkups import check as check_lib

# Modules of checkups. The first does without TensorFlow, which may be what is
# missing: each is imported when its turn comes.
GROUPS = ("installation", "devices", "places", "rows", "small_model")


def run(config: schema.Config, *, workdir: str, runtime: Runtime) -> None:
    """Prints a line for every check, as it is done; changes nothing.

    It takes no `Run`, because TensorFlow may be what is missing.

    Raises:
      ValueError: something is wrong; its lines have said what.
    """
    lines = []
    try:
        config = preflight.fitted(config)
    except ValueError:  # The check of the text says what is wrong with it.
        config = automatic.fitted(config, automatic.TYPICAL)
    with tempfile.TemporaryDirectory(prefix="cloze-doctor-") as scratch:
        case = check_lib.Case(config, workdir, runtime, scratch)
        for line in examine(case, GROUPS):
            print(line, flush=True)
            lines.append(line)
    wrong = [line.name for line in lines if line.verdict == check_lib.WRONG]
    if wrong:
        raise ValueError(
            f"{len(wrong)} of {len(lines)} checks found something wrong:"
            f" {', '.join(wrong)}. Their lines say what to do."
        )


def examine(
    case: check_lib.Case, groups: Sequence[str]
) -> Iterator[check_lib.Line]:
    """The lines of all checks of these groups, in order."""
    for group in groups:
        try:
            module = processes.import_module(
                f"trainer.commands.checkups.{group}"
            )
        except Exception as error:
            yield check_lib.Line(
                check_lib.WRONG, group, check_lib.explain(error)
            )
            continue
        for check in module.CHECKS:
            yield check_lib.perform(check, case)
