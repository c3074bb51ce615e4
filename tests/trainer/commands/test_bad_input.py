"""Bad input to a run is one line that says what to do, and nothing is lost."""

import gzip
import logging
import os
import pathlib
import re
import shutil
import subprocess

import pytest
import zstandard

import storage
from trainer import main as cli
from trainer import workdir as workdir_lib

ROOT = pathlib.Path(cli.__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def complaint(capfd, argv):
    """The one line of a call that must be refused."""
    capfd.readouterr()
    assert cli.main(argv) == 2
    out, err = capfd.readouterr()
    *_, last = err.splitlines()
    assert "Traceback" not in err
    assert last.startswith("cloze: ")
    return last


GOOD = b"".join(b"some words number%d\n" % i for i in range(50))
RECORD = b'{"text": "a good one"}\n'


# What is wrong -> file, its content, changes, and what the line says.
BAD = {
    "empty file": ("a.txt", b"", {}, "a.txt has no text: 1 file.s., all empty"),
    "empty documents": (
        "a.txt",
        b"\n\n  \n",
        {},
        "holds no word at all.*data.path",
    ),
    "NUL bytes alone": ("a.txt", b"\0\0\0\n" * 9, {}, "holds no word at all"),
    "punctuation alone": ("a.txt", b"!!! ?\n" * 9, {}, "holds no word at all"),
    "truncated gzip": (
        "a.txt.gz",
        gzip.compress(GOOD * 99)[:-20],
        {},
        "a.txt.gz is not a complete gzip file.*Fetch it again",
    ),
    "torn zst": (
        "a.txt.zst",
        zstandard.compress(GOOD * 99)[:-20],
        {},
        "a.txt.zst is not a complete zstd file.*Fetch it again",
    ),
    "no parquet": (
        "a.parquet",
        GOOD,
        {"data__source": "parquet"},
        "a.parquet cannot be read as parquet: .*If it is torn, fetch it again",
    ),
    "a file for a folder": (
        "a.txt",
        GOOD,
        {"data__source": "folders"},
        "data.path=.*a.txt is a file.*a folder for each class",
    ),
    "more fields than columns": (
        "a.csv",
        b"a good one,1\na bad, bad one,0\n",
        {"data__source": "csv", "data__columns": "['text', 'label']"},
        "a.csv, line 2: 3 field.*data.columns names 2.*needs quotes",
    ),
    "a number without a name": (
        "a.jsonl",
        RECORD.replace(b"}", b', "label": 2}'),
        {"data__source": "jsonl", "data__label_names": "['no', 'yes']"},
        "a.jsonl, line 1: field 'label' is 2, but .* 2 name.*every number",
    ),
    "an unlabelled file that is the labelled file": (
        "a.jsonl",
        RECORD,
        {"data__source": "jsonl", "data__unlabeled_path": "{path}"},
        "a.jsonl is in data.path and in data.unlabeled_path.*different",
    ),
    "no group": (
        "a.jsonl",
        RECORD * 30,
        {"data__source": "jsonl", "data__group_field": "author"},
        "data.group_field='author': no document has such a field. Name",
    ),
    "one group": (
        "a.jsonl",
        RECORD.replace(b"}", b', "author": "me"}') * 30,
        {"data__source": "jsonl", "data__group_field": "author"},
        "every document has the group 'me'.*Name the field",
    ),
    "batch does not divide": (
        "a.txt",
        GOOD,
        {"train__global_batch_size": 6, "train__accumulation_steps": 4},
        "global_batch_size=6 must be a multiple of 4.*4 or 8 would do",
    ),
}


@pytest.mark.parametrize(
    ("name", "raw", "more", "message"), BAD.values(), ids=[*BAD]
)
def test_bad_input_is_one_line_and_leaves_nothing(
    flags, tmp_path, capfd, name, raw, more, message
):
    path = tmp_path / name
    path.write_bytes(raw)
    more = {"data__path": path, **more}
    more = {f"config__{k}": str(v).format(path=path) for k, v in more.items()}
    prepared = tmp_path / "prepared"
    more["config__data__prepared_dir"] = prepared
    line = complaint(capfd, flags(tmp_path / "run", **more))
    assert re.search(message, line), line
    assert not list(tmp_path.rglob("*.tmp-*"))
    if "global_batch_size" not in line:
        assert not [p for p in prepared.glob("*") if p.is_dir()]


# What is cleaned -> content of a file, and what is logged.
CLEANED = {
    "empty document": (b"\n" + GOOD, "1 documents left out: no text in them"),
    "bad UTF-8": (b"bad \xff\xfe\n" + GOOD, "dropped 2 bytes: invalid utf8"),
    "CRLF": (GOOD.replace(b"\n", b"\r\n"), "kept 50 and 940"),
    "2.5 MB": (GOOD + b"long line " * 250_000, "2 documents made by cutting"),
}


@pytest.mark.parametrize(("raw", "message"), CLEANED.values(), ids=[*CLEANED])
def test_input_that_can_be_cleaned_is_cleaned_and_counted(
    flags, tmp_path, caplog, raw, message
):
    path = tmp_path / "text.txt"
    path.write_bytes(raw)
    argv = flags(
        tmp_path / "run",
        config__data__path=path,
        config__data__prepared_dir=tmp_path / "prepared",
    )
    with caplog.at_level(logging.INFO):
        assert cli.main([*argv, "--mode=prepare"]) == 0
    assert message in caplog.text


def test_a_file_that_may_not_be_read(flags, tmp_path, capfd, monkeypatch):
    path = tmp_path / "text.txt"
    path.write_bytes(GOOD)
    path.chmod(0)
    if os.access(path, os.R_OK):  # The superuser may read everything.
        monkeypatch.setattr(os, "access", lambda *_, **__: False)
    line = complaint(capfd, flags(tmp_path / "run", config__data__path=path))
    assert f"{path} cannot be read: permission denied" in line


def test_two_trainers_in_one_workdir(copied, flags, capfd):
    workdir = copied(20)
    with workdir_lib.locked(str(workdir)):
        line = complaint(capfd, flags(workdir))
    assert f"Another trainer is at work in {workdir}; wait for it" in line


@pytest.fixture
def small_disk(tmp_path):
    """A function: bytes -> a file system of that size, or of another later."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(size):
        options = f"size={size}" + (",remount" if os.path.ismount(path) else "")
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", path]
        if (
            not shutil.which("mount")
            or subprocess.run(command, capture_output=True).returncode
        ):
            pytest.skip("mounting a small file system is not permitted here")
        return path

    yield mount
    if os.path.ismount(path):
        subprocess.run(["umount", "--lazy", path], check=True)


def test_no_space_for_a_checkpoint(small_disk, flags, capfd, look):
    workdir = small_disk(120_000) / "run"
    argv = flags(workdir, config__train__num_steps=20)
    assert "no space left on the device; free some" in complaint(capfd, argv)
    kept = look.checkpoints(workdir)
    for path in kept:
        storage.verify(path)
    assert not list(workdir.rglob("*.tmp-*"))


def test_no_space_for_prepared_rows(small_disk, flags, capfd, tmp_path):
    prepared = small_disk(12_000) / "prepared"
    path = tmp_path / "text.txt"
    path.write_bytes(GOOD * 100)
    argv = flags(
        tmp_path / "run",
        config__data__path=path,
        config__data__prepared_dir=prepared,
    )
    argv.append("--mode=prepare")
    assert "no space left on the device; free some" in complaint(capfd, argv)
    assert not [p for p in prepared.glob("*") if p.is_dir()]
    small_disk(10_000_000)
    assert cli.main(argv) == 0
