"""The command line: reads the flags and the config, and runs one mode.

The module of the mode is imported last, so that a bad value is refused within
the first second: one line on stderr and exit code 2. For the same reason
`preflight` looks for the text before TensorFlow is imported.
"""

import contextlib
import io
import logging
import os
import pathlib
import platform
import re
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType

from absl import app, flags
from absl import logging as absl_logging

from configs import overrides, runtime
from input_pipeline import processes
from trainer import cluster, preflight, refusals

# Mode -> module in trainer.commands and help.
MODES = {
    "all": ("everything", "every stage in turn, skipping what is done"),
    "prepare": ("prepare", "text -> tokenizer and packed rows, once a corpus"),
    "pretrain": ("pretrain", "rows -> encoder, by filling in masked tokens"),
    "finetune": ("finetune", "encoder and labelled text -> classifier"),
    "export": ("export", "checkpoints -> export/, which takes strings"),
    "predict": ("predict", "lines of text -> classes and fill-ins, as JSON"),
    "serve": ("serve", "the export behind a local page and JSON endpoints"),
    "evaluate": ("evaluate", "the exported model on the test split"),
    "report": ("report", "what the workdir holds -> report.html"),
    "status": ("status", "what the workdir holds, and what is stale"),
    "inspect": ("inspect", "show the rows of any step as text"),
    "benchmark": ("benchmark", "time what benchmark.what names"),
    "doctor": ("doctor", "is this machine ready? a line for every check"),
}
# Modes that need no text; to the doctor a missing text is a fault to report.
_WITHOUT_TEXT = ("export", "predict", "serve", "report", "doctor")
# Modes that take no `Run`: two build no model, and the doctor must work without
# TensorFlow.
_WITHOUT_RUN = ("predict", "serve", "doctor")
# Modes that ask an export.
_WITHOUT_KERAS = ("predict", "serve")
# Modes that describe a workdir; its own config is their default.
_OF_WORKDIR = ("report", "status")
_USAGE = """usage: python -m trainer.main [--flag=value ...]
       --config.section.field=value changes the config; --helpfull lists all

modes:
{modes}

environment:
  CLOZE_TRACEBACK=1       show where an error arose
  TF_CPP_MIN_LOG_LEVEL=0  show what TensorFlow says

flags:
{flags}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one mode and returns the exit code.

    0 done; 1 another worker is lost; 2 bad flag, config or input; 129, 130 and
    143 stopped by SIGHUP, Ctrl-C and SIGTERM. Any other exception is a bug and
    passes through: Python's exit code 1.
    """
    _replace_closed_streams()
    try:
        with _ended_by_signals():
            _run(sys.argv[1:] if argv is None else argv)
            sys.stdout.flush()
            return 0
    except (runtime.Stopped, KeyboardInterrupt) as error:
        number = (*error.args, signal.SIGINT)[0]
        name = signal.Signals(number).name
        message = f"stopped by {name}; the same command resumes"
        return _end(error, message, 128 + number)
    except (ValueError, flags.Error) as error:
        return _end(error, str(error), 2)
    except cluster.LostError as error:
        return _end(error, str(error), 1)
    except BrokenPipeError as error:
        # Python flushes once more at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _end(error, "nobody reads the output any more", 1)
    except Exception as error:
        if not (message := refusals.explain(error)):
            raise
        return _end(error, message, 2)


def _run(argv: Sequence[str]) -> None:
    _set_up_libraries()
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A character that the terminal cannot show does not end a run.
        sys.stdout.reconfigure(errors="replace")
    values = _define_flags()
    # The fields of the config become flags once its file is known.
    words = values(["cloze", *argv], known_only=True)
    if values.help:
        return print(_usage(values))
    own = re.search(r"config\.data\.source[= ](?!sample\b)", " ".join(words))
    default = "default" if own else "sample"
    record = pathlib.Path(values.workdir, "config.json")
    if values.mode in _OF_WORKDIR and values.workdir and record.is_file():
        default = str(record)
    path = overrides.find(values.config or default)
    del values.config  # The flag becomes the config itself.
    overrides.define_flags(str(path), values)
    if values.helpfull:
        return print(_usage(values))
    config = overrides.parse(words, values)
    layout = runtime.Runtime(values.strategy, values.num_virtual_devices)
    if layout.strategy == "multi_worker":
        workers = cluster.from_environment()  # Refuses a bad one.
        if workers.me != next(iter(workers.addresses)):
            logging.getLogger("trainer").setLevel(logging.WARNING)
    elif layout.strategy != "tpu" and os.environ.pop("TF_CONFIG", ""):
        logging.getLogger("trainer").warning(
            "TF_CONFIG is not used: --strategy=%s computes on this machine"
            " alone; --strategy=multi_worker is for several",
            layout.strategy,
        )
    # The record of a run lies in its workdir.
    recorded = path.suffix == ".json"
    default = str(path.parent) if recorded else f"runs/{path.stem}"
    workdir = values.workdir or default
    if os.path.isfile(workdir):
        raise ValueError(f"--workdir={workdir} is a file; name a directory.")
    if values.mode not in _WITHOUT_TEXT:
        preflight.check(config)
        config = preflight.fitted(config)
    if (
        values.mode in _WITHOUT_KERAS
    ):  # Half of what importing TensorFlow takes.
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    module, _ = MODES[values.mode]
    command = processes.import_module(f"trainer.commands.{module}")
    with cluster.watched(layout):
        if values.mode in _WITHOUT_RUN:
            command.run(config, workdir=workdir, runtime=layout)
            return
        run = processes.import_module("trainer.run").Run
        command.run(run(config, workdir=workdir, runtime=layout))


def _define_flags() -> flags.FlagValues:
    """All flags but those of the config.

    They are not the global ones of absl, which could be read only once.
    """
    values = flags.FlagValues()  # type: ignore[no-untyped-call]
    values.set_gnu_getopt()
    layouts = runtime.STRATEGIES
    flags.DEFINE_enum("strategy", "mirrored", layouts, "where to run", values)
    flags.DEFINE_enum("mode", "all", [*MODES], "what to do", values)
    text = (
        "a recipe such as imdb, a Python file with get_config(), or the"
        " config.json of a run; default: sample, or default with"
        " --config.data.source"
    )
    flags.DEFINE_string("config", "", text, values)
    text = "default: runs/<stem of --config>, or the workdir of that run"
    flags.DEFINE_string("workdir", "", text, values)
    text = "split the CPU or GPU into so many devices; 0 = leave it whole"
    flags.DEFINE_integer("num_virtual_devices", 0, text, 0, flag_values=values)
    text = "list flags and modes"
    flags.DEFINE_boolean("help", False, text, values, short_name="h")
    text = "list all flags, with every field of the config"
    flags.DEFINE_boolean("helpfull", False, text, values)
    return values


def _usage(values: flags.FlagValues) -> str:
    modes = (f"  {mode:<24}{text}" for mode, (_, text) in MODES.items())
    return _USAGE.format(modes="\n".join(modes), flags=values.get_help())


@contextlib.contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the block as Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    previous = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            # `nohup` has SIGHUP ignored.
            if signal.getsignal(number) is not signal.SIG_IGN:
                previous[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _replace_closed_streams() -> None:
    """Opens stdin, stdout and stderr where the caller has closed them.

    Otherwise the next file that is opened would take their place.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            # The system gives it the lowest free number, which is this one.
            setattr(sys, name, open(os.devnull, mode))


def _set_up_libraries() -> None:
    """Makes them silent and fast; only before TensorFlow is imported."""
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ValueError(
            f"KERAS_BACKEND={backend} is set in the environment, but Cloze"
            " runs on tensorflow; unset KERAS_BACKEND."
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if platform.machine().lower() in ("x86_64", "amd64"):
        # TensorFlow uses oneDNN by itself only where a CPU has AVX-512; with
        # AVX2 alone a step is three times as fast with it.
        os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    # absl would begin every line with the time and the place in the code.
    logging.root.removeHandler(absl_logging.get_absl_handler())
    absl_logging.set_verbosity(absl_logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    logging.basicConfig(format="%(message)s", level=logging.ERROR)
    for ours in ("configs", "input_pipeline", "storage", "trainer"):
        logging.getLogger(ours).setLevel(logging.INFO)


def _end(error: BaseException, message: str, exit_code: int) -> int:
    if os.environ.get("CLOZE_TRACEBACK") == "1":
        traceback.print_exception(error)
    print("cloze:", " ".join(message.split()), file=sys.stderr)
    return exit_code


def _leave_to_main(argv: list[str]) -> list[str]:
    """Keeps absl.app from reading the global flags."""
    flags.FLAGS.mark_as_parsed()
    return argv


if __name__ == "__main__":
    app.run(lambda argv: main(argv[1:]), flags_parser=_leave_to_main)
