"""Directories appear whole or not at all; damage is seen; one holds a lock."""

import errno
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

import storage
from tests import bucket as store

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))


def _fill(path, *, files=None, facts=None):
    with storage.new_directory(path, facts=facts or {}) as temporary:
        for name, content in (files or {"a": b"abc", "in/b": b"defg"}).items():
            (temporary / name).parent.mkdir(exist_ok=True)
            (temporary / name).write_bytes(content)
    return path


def test_whole_directory_with_its_manifest(tmp_path):
    facts = {"rows": 3}
    with storage.new_directory(tmp_path / "new" / "x", facts=facts) as path:
        assert not (tmp_path / "new" / "x").exists()
        (path / "a").write_bytes(b"abc")
        facts["late"] = [1.5]
    manifest = storage.verify(tmp_path / "new" / "x")
    assert manifest == {
        "rows": 3,
        "late": [1.5],
        "files": {
            "a": {
                "bytes": 3,
                "sha256": "ba7816bf8f01cfea414140de5dae2223"
                "b00361a396177a9cb410ff61f20015ad",
            }
        },
    }
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["x"]


def test_an_error_leaves_nothing_of_the_new_and_all_of_the_old(tmp_path):
    _fill(tmp_path / "x")
    with pytest.raises(OSError, match="full"):
        with storage.new_directory(tmp_path / "y", facts={}) as path:
            (path / "a").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "full")
    with pytest.raises(OSError):
        _fill(tmp_path / "x", files={"other": b"content"})
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    assert storage.verify(tmp_path / "x")["files"].keys() == {"a", "in/b"}


def test_everything_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    flushed, fsync, rename = [], os.fsync, os.rename

    def record(handle):
        flushed.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    def check(source, target):
        names = {os.path.relpath(path, source) for path in flushed}
        assert names == {".", "a", "in", "in/b", storage.MANIFEST}
        # A directory after what is in it.
        assert flushed.index(f"{source}/in/b") < flushed.index(f"{source}/in")
        flushed.clear()
        rename(source, target)

    monkeypatch.setattr(os, "fsync", record)
    monkeypatch.setattr(os, "rename", check)
    _fill(tmp_path / "x")
    assert flushed == [str(tmp_path)]


def test_leftovers_of_killed_writers_are_removed(tmp_path):
    for name in ("x.tmp-1", "x.tmp-22", "y.tmp-1", "x"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("text")
    storage.remove_unfinished(tmp_path, "x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x", "y.tmp-1"]
    storage.remove_unfinished(tmp_path / "nowhere", "x")


def test_removal_takes_the_name_first(tmp_path, monkeypatch):
    _fill(tmp_path / "x")
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    storage.remove_directory(tmp_path / "x")
    [left] = tmp_path.iterdir()
    monkeypatch.undo()
    storage.remove_unfinished(tmp_path, "x")
    assert not left.exists()


@pytest.mark.parametrize("name", ["a", "in/b", storage.MANIFEST])
def test_every_flipped_byte_is_seen_and_its_file_named(tmp_path, name):
    file = _fill(tmp_path / "x", facts={"text": "é", "n": 1.5}) / name
    good = file.read_bytes()
    chance = random.Random(7)
    for place in range(len(good)):
        other = chance.choice([b for b in range(256) if b != good[place]])
        file.write_bytes(good[:place] + bytes([other]) + good[place + 1 :])
        with pytest.raises(storage.DamagedError, match=str(file)):
            storage.verify(tmp_path / "x")
    file.write_bytes(good)
    storage.verify(tmp_path / "x")


def test_another_blank_in_the_manifest_is_damage(tmp_path):
    file = _fill(tmp_path / "x") / storage.MANIFEST
    file.write_bytes(file.read_bytes().replace(b" ", b"\t", 1))
    with pytest.raises(storage.DamagedError):
        storage.read_manifest(tmp_path / "x")


@pytest.mark.parametrize("content", [b"", b"[]", b"{}", b'"a"', b"3", b"\xff"])
def test_a_manifest_of_nonsense(tmp_path, content):
    (tmp_path / storage.MANIFEST).write_bytes(content)
    with pytest.raises(storage.DamagedError, match="manifest.json is damaged"):
        storage.read_manifest(tmp_path)


def test_missing_and_cut_files(tmp_path):
    file = _fill(tmp_path / "x") / "in" / "b"
    file.write_bytes(b"def")
    for content in (True, False):
        with pytest.raises(storage.DamagedError, match="b has 3 bytes.* 4"):
            storage.verify(tmp_path / "x", content=content)
    file.unlink()
    with pytest.raises(storage.DamagedError, match="b is missing"):
        storage.verify(tmp_path / "x")
    with pytest.raises(storage.DamagedError, match="json is missing"):
        storage.verify(tmp_path / "nowhere")


def test_write_json_replaces_at_once(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    storage.write_json(path, {"a": 1})
    storage.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        storage.write_json(path, {"a": 3})
    assert json.loads(path.read_text()) == {"a": 2}
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


def test_lock_makes_threads_wait(tmp_path):
    inside, most = 0, 0

    def enter():
        nonlocal inside, most
        for _ in range(20):
            with storage.exclusive(tmp_path / "x", wait=True):
                inside += 1
                most = max(most, inside)
                time.sleep(0.0005)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    with storage.exclusive(tmp_path / "x", wait=False):
        # What a fork does: the same open file once more.
        copies = [
            os.dup(int(name))
            for name in os.listdir("/proc/self/fd")
            if os.path.realpath(f"/proc/self/fd/{name}") == str(tmp_path / "x")
        ]
    try:
        assert copies
        with storage.exclusive(tmp_path / "x", wait=False):
            pass
    finally:
        for copy in copies:
            os.close(copy)


HOLD = """
import sys, time
import storage
with storage.exclusive(sys.argv[1], wait=False):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_killed_holder_leaves_no_lock(tmp_path):
    command = [sys.executable, "-c", HOLD, str(tmp_path / "x")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    with pytest.raises(ValueError, match="somebody is there"):
        with storage.exclusive(
            tmp_path / "x", wait=False, busy="somebody is there"
        ):
            pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    with storage.exclusive(tmp_path / "x", wait=False):
        pass


def test_a_directory_in_a_store_is_complete_with_its_manifest(bucket):
    path = storage.path_of("gs://bucket/run/x")
    with storage.new_directory(path, facts={"rows": 3}) as temporary:
        (temporary / "in").mkdir()
        (temporary / "in" / "a").write_bytes(b"abc")
        (temporary / "empty").write_bytes(b"")
        assert not bucket.objects
    assert not temporary.exists()
    manifest = storage.verify("gs://bucket/run/x")
    assert manifest["rows"] == 3
    assert manifest["files"].keys() == {"in/a", "empty"}
    bucket.objects[f"{path}/in/a"] = b"abd"
    with pytest.raises(storage.DamagedError, match="gs://.*in/a is damaged"):
        storage.verify(path)
    storage.verify(path, content=False)
    assert storage.complete("gs://bucket/run", "x*") == [path]
    (path / storage.MANIFEST).unlink()
    assert storage.complete("gs://bucket/run", "x*") == []
    with pytest.raises(storage.DamagedError, match="json is missing"):
        storage.verify(path)
    storage.remove_unfinished("gs://bucket/run", "x*")
    assert not bucket.objects


def test_the_manifest_comes_last_to_a_store_and_goes_first(bucket):
    path = storage.path_of("gs://bucket/run/x")
    manifest = f"{path}/{storage.MANIFEST}"
    for number in range(3):
        bucket.changes_left = number
        with pytest.raises(store.GoneError):
            _fill(path)
        assert len(bucket.objects) == number
        assert manifest not in bucket.objects
    bucket.changes_left = None
    _fill(path)
    assert storage.verify(path)["files"].keys() == {"a", "in/b"}
    for number, left in enumerate((2, 1)):
        bucket.changes_left = 1
        with pytest.raises(store.GoneError):
            storage.remove_directory(path)
        assert len(bucket.objects) == left, number
        assert manifest not in bucket.objects
    bucket.changes_left = None
    storage.remove_directory(path)
    storage.remove_directory(path)
    assert not bucket.objects


@pytest.mark.parametrize("far", [False, True])
def test_files_grow_and_are_replaced(tmp_path, bucket, far):
    folder = storage.path_of("gs://bucket/x" if far else tmp_path)
    _fill(folder / "whole", facts={"rows": 3})
    storage.replace_file(folder / "whole", "in/b", b"other")
    manifest = storage.verify(folder / "whole")
    assert (manifest["rows"], manifest["files"]["in/b"]["bytes"]) == (3, 5)
    for text in ("one\n", "é\n"):
        storage.append(folder / "log", text)
    assert (folder / "log").read_bytes().decode() == "one\né\n"
    for value in (1, 2):
        storage.write_json(folder / "json", {"value": value})
    assert json.loads((folder / "json").read_bytes()) == {"value": 2}
    storage.write_bytes(folder / "json", b"")
    assert (folder / "json").read_bytes() == b""


def test_of_stores_only_one_kind_is_known(tmp_path):
    assert storage.path_of(tmp_path) == tmp_path
    with pytest.raises(ValueError, match="s3://bucket/x: .*only gs://"):
        storage.path_of("s3://bucket/x")


def test_a_store_is_leased_by_one_and_nobody_waits_for_it(bucket, monkeypatch):
    monkeypatch.setattr(storage.lease, "_BEAT_SECONDS", 0.01)
    monkeypatch.setattr(storage.lease, "_SILENT_BEATS", 10_000)
    with storage.exclusive("gs://bucket/lock", wait=False):
        with pytest.raises(ValueError, match="somebody is there"):
            with storage.exclusive(
                "gs://bucket/lock", wait=False, busy="somebody is there"
            ):
                pass
        with storage.exclusive("gs://bucket/lock", wait=True):
            pass
    assert not bucket.objects
