"""The command line: checks flags and config, then calls one command.

The command is imported last, so that a bad value costs neither an import of
TensorFlow nor a traceback: it is one line on stderr and exit code 2. For the
same reason `preflight` looks for the text before.
"""

import contextlib
import logging
import os
import pathlib
import platform
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from types import FrameType

from absl import logging as absl_logging

from configs import overrides, runtime
from input_pipeline import processes
from trainer import cluster
from trainer.commands import preflight, refusals

# Flag -> default and help; every default is text, as on the command line.
FLAGS = {
    "strategy": ("mirrored", " | ".join(runtime.STRATEGIES)),
    "mode": ("all", "what to do, see below"),
    "config": (
        "configs/sample.py",
        "or a run's config.json; own text: default.py",
    ),
    "workdir": ("", "default: runs/<stem of --config>, or that run's"),
    "num_virtual_devices": ("0", "split the CPU or GPU into N; 0 = do not"),
}
# Mode -> module in trainer.commands and help.
MODES = {
    "all": ("everything", "every stage in turn, skipping what is done"),
    "prepare": ("prepare", "text -> tokenizer and packed rows, once a corpus"),
    "pretrain": ("pretrain", "rows -> encoder, by filling in masked tokens"),
    "finetune": ("finetune", "encoder and labelled text -> classifier"),
    "export": ("export", "checkpoints -> export/, which takes strings"),
    "predict": ("predict", "lines of text -> classes and fill-ins, as JSON"),
    "evaluate": ("evaluate", "the exported model on the test split"),
    "inspect": ("inspect", "show the rows of any step as text"),
    "benchmark": ("benchmark", "time what benchmark.what names"),
    "doctor": ("doctor", "is this machine ready? a line for every check"),
}
# They work on what has been trained, without its text; the doctor looks for it
# among other things.
_WITHOUT_TEXT = ("export", "predict", "doctor")


class _Terminated(BaseException):
    """SIGTERM while nothing is trained; no library catches it."""

    exit_code = 128 + signal.SIGTERM

    def __str__(self) -> str:
        return "stopped by SIGTERM"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code.

    0 done; 1 another worker is lost; 2 bad flag, config or input; 130 and 143
    stopped by Ctrl-C and by SIGTERM. Any other exception is a bug and passes
    through: Python's exit 1.
    """
    try:
        with _terminable():
            return _run(sys.argv[1:] if argv is None else argv)
    except (runtime.Stopped, _Terminated) as error:
        return _end(
            error, f"{error}; the same command resumes", error.exit_code
        )
    except KeyboardInterrupt as error:
        return _end(error, "stopped by SIGINT; the same command resumes", 130)
    except ValueError as error:
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


def usage() -> str:
    """What --help prints."""
    flags = [
        (f"--{name}={value}", text) for name, (value, text) in FLAGS.items()
    ]
    flags.append(
        ("--config.section.field=value", "see configs/sections.py, outputs.py")
    )
    return "\n".join(
        [
            "usage: python -m trainer.main [--flag=value ...]",
            "",
            *(f"  {flag:<30}{text}" for flag, text in flags),
            "",
            "modes:",
            *(f"  {mode:<30}{text}" for mode, (_, text) in MODES.items()),
            "",
            "environment:",
            f"  {'CLOZE_TRACEBACK=1':<30}show where an error arose",
            f"  {'TF_CPP_MIN_LOG_LEVEL=0':<30}show what TensorFlow says",
        ]
    )


def parse(argv: Sequence[str]) -> dict[str, str]:
    """The text of every flag; of two equal flags the last one counts.

    parse(["--mode=inspect", "--config.seed", "3"])
    -> {"strategy": "mirrored", "mode": "inspect", "config.seed": "3", ...}
    """
    flags = {name: default for name, (default, _) in FLAGS.items()}
    given = set()
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--"):
            raise ValueError(f"{word!r} is not a flag; write --name=value.")
        if name not in FLAGS and name not in overrides.FIELDS:
            raise ValueError(
                f"--{overrides.unknown_name(name, flags=[*FLAGS])}"
            )
        if not equals and words and not words[0].startswith("--"):
            equals, value = "=", words.pop(0)
        if not equals or (name in FLAGS and not value):
            raise ValueError(f"--{name} has no value; write --{name}=value.")
        flags[name] = value
        given.add(name)
    source = flags.get("config.data.source", "sample")
    if "config" not in given and source != "sample":
        flags["config"] = "configs/default.py"
    return flags


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Lets SIGTERM end the block as Ctrl-C does: whatever is open is closed."""

    def terminate(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _run(argv: Sequence[str]) -> int:
    if "--help" in argv or "-h" in argv:
        print(usage())
        return 0
    _set_up_libraries()
    flags = parse(argv)
    if flags["mode"] not in MODES:
        raise ValueError(
            f"--mode={flags['mode']} is not known; choose one of"
            f" {', '.join(MODES)}."
        )
    layout = runtime.Runtime(
        strategy=flags["strategy"],
        num_virtual_devices=overrides.read_value(
            "num_virtual_devices", flags["num_virtual_devices"], int
        ),
    )
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
    config = overrides.load_config(
        flags["config"],
        changes={k: v for k, v in flags.items() if k in overrides.FIELDS},
    )
    workdir = flags["workdir"] or _workdir_of(pathlib.Path(flags["config"]))
    if os.path.isfile(workdir):
        raise ValueError(f"--workdir={workdir} is a file; name a directory.")
    if flags["mode"] not in _WITHOUT_TEXT:
        preflight.check(config)
        config = preflight.fitted(config)
    module, _ = MODES[flags["mode"]]
    command = processes.import_module(f"trainer.commands.{module}")
    with cluster.watched(layout):
        command.run(config, workdir=workdir, runtime=layout)
    sys.stdout.flush()
    return 0


def _workdir_of(config: pathlib.Path) -> str:
    if config.suffix == ".json":  # The record of a run lies in its workdir.
        return str(config.parent)
    return f"runs/{config.stem}"


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


if __name__ == "__main__":
    sys.exit(main())
