"""The command line, with a command that only writes down its call."""

import errno
import io
import json
import os
import pathlib
import platform
import resource
import signal
import socket
import subprocess
import sys
import types

import pytest

from configs import overrides, runtime, schema
from trainer import main as cli

ROOT = pathlib.Path(cli.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("CLOZE_TRACEBACK", raising=False)


class Command(types.ModuleType):
    """Stands for a module of trainer.commands."""

    def __init__(self):
        super().__init__("command")
        self.calls = []
        self.error = None

    def run(self, run):
        self.calls.append((run.config, run.workdir, run.runtime))
        if self.error:
            raise self.error


@pytest.fixture
def command(monkeypatch):
    """Every mode calls this one."""
    fake = Command()
    for module, _ in cli.MODES.values():
        monkeypatch.setitem(sys.modules, f"trainer.commands.{module}", fake)
    return fake


@pytest.fixture(autouse=True)
def _same_signals():
    """Undoes what a shell and `nohup` do: SIGINT or SIGHUP are ignored."""
    interrupt = signal.signal(signal.SIGINT, signal.default_int_handler)
    hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, interrupt)
    signal.signal(signal.SIGHUP, hangup)


def complaint(capsys, *argv):
    """The one line on stderr of a call that must end with exit code 2."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cloze: ")
    assert err.count("\n") == 1
    return err


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("", "sample"),
        # Text of one's own.
        ("--config.data.path=Makefile --config.data.source=text", "default"),
    ],
)
def test_defaults(command, line, name):
    argv = line.split()
    assert cli.main(argv) == 0
    [(config, workdir, layout)] = command.calls
    changes = dict(word.removeprefix("--").split("=") for word in argv)
    plain = overrides.load_config(f"configs/{name}.py", changes=changes)
    assert config.model == plain.model
    assert workdir == f"runs/{name}"
    assert layout == runtime.Runtime("mirrored", 0)


@pytest.mark.parametrize("glue", ["=", " "])
def test_every_flag_arrives_and_the_last_of_two_counts(command, tmp_path, glue):
    path = tmp_path / "mine.py"
    path.write_text(pathlib.Path("configs/sample.py").read_text())
    words = [
        "strategy=tpu",
        "strategy=one_device",
        "mode=inspect",
        f"config={path}",
        "num_virtual_devices=2",
        "config.masking.final_select_rate=-1",
        "config.train.num_steps=7",
    ]
    argv = [f"--{word}".replace("=", glue) for word in words]
    assert cli.main(" ".join(argv).split()) == 0
    [(config, workdir, layout)] = command.calls
    assert config.train.num_steps == 7
    assert config.masking.final_select_rate == -1.0
    assert workdir == "runs/mine"
    assert layout == runtime.Runtime("one_device", 2)


def test_the_record_of_a_run_goes_on_in_its_workdir(command, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": schema.Config().to_dict()}))
    assert cli.main([f"--config={path}"]) == 0
    assert cli.main([f"--config={path}", "--workdir", "gs://b/a b"]) == 0
    assert [call[1] for call in command.calls] == [str(tmp_path), "gs://b/a b"]
    assert command.calls[0][0] == schema.Config()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stategy=tpu"], "--stategy does not exist; did you mean strategy?"),
        (["--strategy=gpu"], "<mirrored|one_device|multi_worker|tpu>"),
        (["--mode=trian"], "--mode=trian: value should be one of <all|prep"),
        (["--mode"], "Missing value for flag --mode"),
        (["--workdir=Makefile"], "--workdir=Makefile is a file; name a dir"),
        (["prepare"], "'prepare' is not a flag; write --name=value."),
        (["--num_virtual_devices=two"], "--num_virtual_devices=two: "),
        (["--num_virtual_devices=-1"], "-1 is not a non-negative integer"),
        (
            ["--num_virtual_devices=2", "--strategy=tpu"],
            "--num_virtual_devices=2 does not go with --strategy=tpu",
        ),
        (["--config=configs/smaple.py"], "such as configs/sample.py."),
        (["--config.train.num_step=5"], "did you mean config.train.num_steps?"),
        (["--config.train.num_steps=5.5"], "give a whole number"),
        (["--config.model=big"], "--config.model is a section; its fields are"),
        (["--config.masking.mask_rate=2"], "masking.mask_rate=2.0 must lie"),
    ],
)
def test_a_bad_command_line_is_one_line(command, capsys, argv, message):
    assert message in complaint(capsys, *argv)
    assert not command.calls


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("KERAS_BACKEND", "jax", "KERAS_BACKEND=jax"),
        ("TF_CONFIG", "{", "TF_CONFIG must be JSON"),
    ],
)
def test_a_bad_environment_is_one_line(
    command, capsys, monkeypatch, name, value, message
):
    monkeypatch.setenv(name, value)
    assert message in complaint(capsys, "--strategy=multi_worker")
    assert not command.calls


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("no row\n  fits"), "cloze: no row fits\n"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/a/b"),
            "cloze: /a/b: Permission denied; check that the path is right",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "cloze: /a/b: no space left on the device; free some",
        ),
        (
            RuntimeError(
                "Error executing an HTTP request: 403\n\t of gs://b/a"
            ),
            "cloze: Error executing an HTTP request: 403 of gs://b/a; check",
        ),
        (
            # As safetensors says it, and in similar words TensorFlow.
            RuntimeError("I/O error: No space left on device (os error 28)"),
            "cloze: the workdir or data.prepared_dir: no space left on the",
        ),
    ],
)
def test_bad_input_found_by_a_command_is_one_line(
    command, capsys, error, message
):
    command.error = error
    assert complaint(capsys).startswith(message)


def test_traceback_on_demand(command, capsys, monkeypatch):
    monkeypatch.setenv("CLOZE_TRACEBACK", "1")
    command.error = ValueError("from deep inside")
    assert cli.main([]) == 2
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert err.endswith("\ncloze: from deep inside\n")


@pytest.mark.parametrize("sent", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_heard_by_the_training_or_by_this(capsys, command, sent):
    before = signal.getsignal(sent)
    command.error = runtime.Stopped(sent)
    for _ in range(2):
        assert cli.main([]) == 128 + sent
        err = capsys.readouterr().err
        assert err == (
            f"cloze: stopped by {sent.name}; the same command resumes\n"
        )
        assert signal.getsignal(sent) is before
        command.run = lambda _: os.kill(os.getpid(), sent)


def test_a_hangup_that_is_ignored_stays_ignored(command):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # As `nohup` does.
    command.run = lambda _: os.kill(os.getpid(), signal.SIGHUP)
    assert cli.main([]) == 0
    signal.signal(signal.SIGHUP, before)


def test_a_cluster_that_is_not_used_is_warned_of(command, caplog, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")  # TensorFlow would stumble over it.
    assert cli.main(["--strategy=one_device"]) == 0
    assert "TF_CONFIG is not used: --strategy=one_device" in caplog.text


def test_a_lost_worker_is_one_line_and_no_bad_input(
    command, capsys, monkeypatch
):
    with socket.create_server(("127.0.0.1", 0)) as server:
        gone = f"127.0.0.1:{server.getsockname()[1]}"
    task = {"type": "worker", "index": 0}
    text = {"cluster": {"worker": ["127.0.0.1:1", gone]}, "task": task}
    monkeypatch.setenv("TF_CONFIG", json.dumps(text))
    kind = type("UnavailableError", (Exception,), {"__module__": "tensorflow"})
    command.error = kind("Connection reset by peer")
    assert cli.main(["--strategy=multi_worker"]) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"cloze: lost worker 1 ({gone}): ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("argv", [["--help"], ["--mod", "-h"]])
def test_help_names_every_flag_and_mode(command, capsys, argv):
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "  --num_virtual_devices: " in out
    for mode, (_, text) in cli.MODES.items():
        assert f"\n  {mode} " in out
        assert text in out
    assert "--config.seed" not in out
    assert not command.calls


def test_full_help_has_every_field_with_default_and_comment(command, capsys):
    assert cli.main(["--helpfull", "--config=configs/imdb.py"]) == 0
    assert (
        "  --config.data.text_field: tfds and records: the field with the text."
        "\n    (default: 'text')\n"
    ) in capsys.readouterr().out
    assert not command.calls


def start(*argv, program=None, closed="", **options):
    """A fresh interpreter with the flags as its command line."""
    command = [sys.executable, "-m", "trainer.main", *argv]
    if program:
        command = [sys.executable, "-c", program, *argv]
    return subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", *command],
        **{"stdout": subprocess.PIPE, **options},
        stderr=subprocess.PIPE,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"},
    )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--config.train.num_step=5"], "did you mean"),
        (
            ["--config.data.source=text", "--config.data.path=/none/*.txt"],
            "data.path=/none/*.txt matches no file",
        ),
    ],
)
def test_a_bad_value_dies_at_once_and_without_tensorflow(argv, message):
    program = (
        "import sys; from trainer import main; code = main.main(); "
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules))); "
        "sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = start(*argv, program=program)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (result.returncode, result.stdout) == (2, "[]\n")
    assert message in result.stderr
    assert result.stderr.count("\n") == 1
    # Processor time: a busy machine does not change it much.
    assert after.ru_utime - before.ru_utime < 1.5


@pytest.mark.parametrize("closed", ["<&-", ">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_bug(closed):
    result = start("--mode=x", closed=closed)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr


def fake(body, **options):
    """A fresh interpreter in which this stands for the doctor.

    The doctor needs no TensorFlow.
    """
    program = (
        "import sys, types; fake = types.ModuleType('fake'); "
        "exec(sys.argv.pop(1), fake.__dict__); "
        "sys.modules['trainer.commands.doctor'] = fake; "
        "import runpy; runpy.run_module('trainer.main', run_name='__main__')"
    )
    return start(body, "--mode=doctor", program=program, **options)


def test_a_bug_shows_its_traceback():
    result = fake("def run(*_, **__): {}['x']")
    assert result.returncode == 1
    assert "Traceback" in result.stderr and "KeyError: 'x'" in result.stderr


def test_only_our_own_logs_are_shown():
    body = """
import logging, os, warnings
from absl import logging as absl_logging
def run(config, **rest):
    for name in ('configs.a', 'input_pipeline.b', 'trainer.c.d', 'tensorflow'):
        logging.getLogger(name).info('info of %s', name)
    logging.getLogger('trainer.c').debug('debug')
    logging.getLogger('etils').warning('warning')
    logging.getLogger('etils').error('error')
    absl_logging.warning('absl')
    warnings.warn('careful')
    print(os.environ['KERAS_BACKEND'], os.environ['TF_CPP_MIN_LOG_LEVEL'])
    print(os.environ.get('TF_ENABLE_ONEDNN_OPTS'))
"""
    result = fake(body)
    assert result.returncode == 0
    on_x86 = platform.machine().lower() in ("x86_64", "amd64")
    assert result.stdout.splitlines() == [
        "tensorflow 3",
        "1" if on_x86 else "None",
    ]
    assert result.stderr.splitlines() == [
        "info of configs.a",
        "info of input_pipeline.b",
        "info of trainer.c.d",
        "error",
    ]


def test_an_encoding_that_cannot_show_a_word_shows_a_question_mark(
    command, monkeypatch
):
    content = io.BytesIO()
    stdout = io.TextIOWrapper(content, encoding="latin-1")
    monkeypatch.setattr(sys, "stdout", stdout)
    monkeypatch.setattr(command, "run", lambda _: print("\u5f88 na\u00efve"))
    assert cli.main([]) == 0
    stdout.flush()
    assert content.getvalue() == "? na\u00efve\n".encode("latin-1")


@pytest.mark.parametrize("number", [1, 1_000_000])
def test_a_reader_that_has_gone_is_no_traceback(number):
    reader, writer = os.pipe()
    os.close(reader)
    body = f"def run(*_, **__): print('x' * {number})"
    result = fake(body, stdout=writer)
    os.close(writer)
    assert result.returncode == 1
    assert result.stderr == "cloze: nobody reads the output any more\n"


def test_what_is_written_while_stdout_is_closed_goes_nowhere():
    body = """
import os
def run(*args, **rest):
    print('x', flush=True)
    assert os.open('/dev/zero', os.O_RDONLY) > 2
"""
    result = fake(body, closed=">&-")
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
