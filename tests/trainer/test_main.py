"""Tests of trainer/main.py, with a command that only writes down its call."""

import errno
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

    def run(self, config, *, workdir, runtime, callbacks=()):
        self.calls.append((config, workdir, runtime))
        if self.error:
            raise self.error


@pytest.fixture
def command(monkeypatch):
    """Every mode calls this one."""
    fake = Command()
    for module, _ in cli.MODES.values():
        monkeypatch.setitem(sys.modules, f"trainer.commands.{module}", fake)
    return fake


def complaint(capsys, *argv):
    """The one line on stderr of a call that must end with exit code 2."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("cloze: ")
    assert err.count("\n") == 1
    return err


def test_flags_are_exactly_these():
    assert {name: default for name, (default, _) in cli.FLAGS.items()} == {
        "strategy": "mirrored",
        "mode": "all",
        "config": "configs/sample.py",
        "workdir": "",
        "num_virtual_devices": "0",
    }


def test_modes_are_exactly_these():
    assert list(cli.MODES) == [
        "all",
        "prepare",
        "pretrain",
        "finetune",
        "export",
        "predict",
        "evaluate",
        "inspect",
        "benchmark",
        "doctor",
    ]


def test_defaults(command):
    assert cli.main([]) == 0
    [(config, workdir, layout)] = command.calls
    assert config == overrides.load_config("configs/sample.py", changes={})
    assert workdir == "runs/sample"
    assert layout == runtime.Runtime("mirrored", 0)


@pytest.mark.parametrize("glue", ["=", " "])
def test_every_flag_arrives(command, tmp_path, glue):
    path = tmp_path / "mine.py"
    path.write_text(pathlib.Path("configs/sample.py").read_text())
    flags = {
        "strategy": "one_device",
        "mode": "inspect",
        "config": str(path),
        "num_virtual_devices": "2",
        "config.masking.final_select_rate": "-1",
        "config.train.num_steps": "7",
    }
    words = [f"--{k}{glue}{v}" for k, v in flags.items()]
    argv = words if glue == "=" else " ".join(words).split()
    assert cli.main(argv) == 0
    [(config, workdir, layout)] = command.calls
    assert config.train.num_steps == 7
    assert config.masking.final_select_rate == -1.0
    assert workdir == "runs/mine"
    assert layout == runtime.Runtime("one_device", 2)


@pytest.mark.parametrize("mode", cli.MODES)
def test_mode_calls_its_own_module(monkeypatch, mode):
    imported = []
    monkeypatch.setattr(
        cli.processes,
        "import_module",
        lambda name: imported.append(name) or Command(),
    )
    assert cli.main([f"--mode={mode}"]) == 0
    assert imported == [f"trainer.commands.{cli.MODES[mode][0]}"]


def test_workdir_is_taken_as_it_is(command):
    assert cli.main(["--workdir", "gs://bucket/a b"]) == 0
    assert command.calls[0][1] == "gs://bucket/a b"


def test_the_record_of_a_run_goes_on_in_its_workdir(command, tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": schema.Config().to_dict()}))
    assert cli.main([f"--config={path}"]) == 0
    assert cli.main([f"--config={path}", "--workdir=other"]) == 0
    assert [call[1] for call in command.calls] == [str(tmp_path), "other"]
    assert command.calls[0][0] == schema.Config()


def test_the_last_of_two_equal_flags_counts(command):
    assert cli.main(["--strategy=tpu", "--strategy=one_device"]) == 0
    assert command.calls[0][2].strategy == "one_device"


def test_a_value_may_hold_an_equals_sign_or_be_empty():
    flags = cli.parse(["--config.data.path=a=b", "--config.data.name="])
    assert flags["config.data.path"] == "a=b"
    assert flags["config.data.name"] == ""


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--stategy=tpu"], "--stategy does not exist; did you mean strategy?"),
        (
            ["--strategy=gpu"],
            "choose one of mirrored, one_device, multi_worker",
        ),
        (
            ["--mode=trian"],
            "--mode=trian is not known; choose one of all, prep",
        ),
        (["--mode"], "--mode has no value; write --mode=value."),
        (["--mode", "--help_"], "--mode has no value"),
        (["--workdir="], "--workdir has no value"),
        (["--workdir=Makefile"], "--workdir=Makefile is a file; name a dir"),
        (["prepare"], "'prepare' is not a flag; write --name=value."),
        (["-mode=all"], "'-mode=all' is not a flag"),
        (["--"], "-- does not exist"),
        (["--num_virtual_devices=two"], "=two must be a whole number"),
        (["--num_virtual_devices=-1"], "must be at least 0"),
        (["--config=configs/smaple.py"], "such as configs/sample.py."),
        (["--config.train.num_step=5"], "did you mean config.train.num_steps?"),
        (["--config.train.num_steps=5.5"], "num_steps=5.5 must be a whole"),
        (["--config.model=big"], "--config.model is a section; its fields are"),
        (["--config.masking.mask_rate=2"], "masking.mask_rate=2.0 must lie"),
    ],
)
def test_a_bad_command_line_is_one_line(command, capsys, argv, message):
    assert message in complaint(capsys, *argv)
    assert not command.calls


def test_another_backend_is_refused(command, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert "KERAS_BACKEND=jax" in complaint(capsys)
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
            FileNotFoundError(errno.ENOENT, "No such file", "/a/b"),
            "cloze: /a/b: No such file; check",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device", "/a/b"),
            "cloze: /a/b: no space left on the device; free some",
        ),
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "cloze: the workdir or data.prepared_dir: no space left on the",
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


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (runtime.Stopped(signal.SIGINT), 130, "stopped by SIGINT"),
        (runtime.Stopped(signal.SIGTERM), 143, "stopped by SIGTERM"),
        (KeyboardInterrupt(), 130, "stopped by SIGINT"),
    ],
)
def test_a_signal_has_its_exit_code(command, capsys, error, code, message):
    command.error = error
    assert cli.main([]) == code
    err = capsys.readouterr().err
    assert err == f"cloze: {message}; the same command resumes\n"


@pytest.fixture
def _interruptible():
    """Undoes what a shell does to its background jobs: they ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_nothing_trains(monkeypatch, capsys, command, sent):
    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(
        command, "run", lambda *_, **__: os.kill(os.getpid(), sent)
    )
    assert cli.main([]) == 128 + sent
    err = capsys.readouterr().err
    assert err == f"cloze: stopped by {sent.name}; the same command resumes\n"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_bad_tf_config_needs_no_command(command, capsys, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")
    error = complaint(capsys, "--strategy=multi_worker")
    assert "TF_CONFIG is not JSON" in error
    assert not command.calls


def test_a_cluster_that_is_not_used_is_warned_of(command, caplog, monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{")  # TensorFlow would stumble over it.
    assert cli.main(["--strategy=one_device"]) == 0
    assert "TF_CONFIG is not used: --strategy=one_device" in caplog.text
    assert "TF_CONFIG" not in os.environ


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


def test_missing_text_needs_no_command(command, capsys):
    flags = ["--config.data.source=text", "--config.data.path=/none/*.txt"]
    assert "/none/*.txt matches no file" in complaint(capsys, *flags)
    assert not command.calls


@pytest.mark.parametrize("error", [KeyError("bug"), OSError(errno.EIO, "bug")])
def test_a_bug_passes_through(command, error):
    command.error = error
    with pytest.raises(type(error), match="bug"):
        cli.main([])


@pytest.mark.parametrize("argv", [["--help"], ["-h"], ["--mod", "--help"]])
def test_help_names_every_flag_and_mode(command, capsys, argv):
    assert cli.main(argv) == 0
    out, err = capsys.readouterr()
    assert (out, err) == (cli.usage() + "\n", "")
    for flag, (default, text) in cli.FLAGS.items():
        assert f"  --{flag}={default}" in out
        assert text in out
    for mode, (_, text) in cli.MODES.items():
        assert f"\n  {mode} " in out
        assert text in out
    assert "CLOZE_TRACEBACK=1" in out
    assert max(map(len, out.splitlines())) <= 80
    assert not command.calls


def run(*argv, program="from trainer import main; sys.exit(main.main())"):
    """A fresh interpreter with the flags as its command line."""
    return subprocess.run(
        [sys.executable, "-c", f"import sys; {program}", *argv],
        capture_output=True,
        text=True,
        env={k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"},
    )


def test_a_typo_dies_at_once_and_without_tensorflow():
    program = (
        "from trainer import main; code = main.main(); "
        "print(sorted({'tensorflow', 'keras'} & set(sys.modules))); "
        "sys.exit(code)"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = run("--config.train.num_step=5", program=program)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert (result.returncode, result.stdout) == (2, "[]\n")
    assert result.stderr.count("\n") == 1
    # Processor time: a busy machine does not change it much.
    assert after.ru_utime - before.ru_utime < 1.5


def test_module_can_be_run():
    result = subprocess.run(
        [sys.executable, "-m", "trainer.main", "--mode=x"],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert result.stderr.startswith("cloze: --mode=x is not known;")


# Stands for a command in a fresh interpreter.
FAKE = (
    "import types; fake = types.ModuleType('fake'); exec(sys.argv.pop(1)); "
    "sys.modules['trainer.commands.everything'] = fake; "
    "from trainer import main; sys.exit(main.main())"
)


def test_a_bug_shows_its_traceback():
    result = run("fake.run = lambda *a, **k: {}['x']", program=FAKE)
    assert result.returncode == 1
    assert "Traceback" in result.stderr
    assert "KeyError: 'x'" in result.stderr


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
fake.run = run
"""
    result = run(body, program=FAKE)
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


def test_a_closed_pipe_is_no_traceback():
    body = "fake.run = lambda *a, **k: print('x' * 1_000_000)"
    program = f"import sys; {FAKE}"
    reader, writer = os.pipe()
    os.close(reader)
    result = subprocess.run(
        [sys.executable, "-c", program, body],
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert result.returncode == 1
    assert result.stderr == "cloze: nobody reads the output any more\n"


def test_tensorflow_starts_without_a_word(tmp_path):
    commands = tmp_path / "trainer_commands"
    commands.mkdir()
    (commands / "everything.py").write_text(
        "import keras\nimport tensorflow as tf\n"
        "def run(config, **rest):\n    keras.ops.zeros(()) + tf.zeros(())\n"
    )
    program = (
        "from trainer import commands, main; "
        f"commands.__path__ = [{str(commands)!r}]; sys.exit(main.main())"
    )
    result = run(program=program)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
