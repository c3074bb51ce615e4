"""Directories that appear whole or not at all, and a lock for one writer.

A directory is written under a temporary name; its `manifest.json` (size and
sha256 of every file, and a digest of itself) comes last; then everything is
flushed to the disk and renamed. Whoever finds the final name finds all of it.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
from collections.abc import Iterator
from typing import Any

MANIFEST = "manifest.json"


class DamagedError(ValueError):
    """A file is missing, has another size, or another content."""


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The hexadecimal sha256 of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """The hexadecimal sha256 of a JSON value, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def new_directory(
    path: str | os.PathLike[str], *, facts: dict[str, Any]
) -> Iterator[pathlib.Path]:
    """Yields a temporary directory that becomes `path` if the block succeeds.

    Args:
      path: the final name; it must not exist.
      facts: what the manifest says besides the files. The block may add to it.
    """
    final = pathlib.Path(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        _write_manifest(temporary, facts)
        _sync(temporary)
        os.rename(temporary, final)
        _sync_one(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def remove_directory(path: str | os.PathLike[str]) -> None:
    """Deletes a directory; its name is gone before the first file is."""
    doomed = pathlib.Path(path)
    unnamed = doomed.with_name(f"{doomed.name}.tmp-{os.getpid()}-old")
    shutil.rmtree(unnamed, ignore_errors=True)
    os.rename(doomed, unnamed)
    shutil.rmtree(unnamed, ignore_errors=True)


def remove_unfinished(parent: str | os.PathLike[str], pattern: str) -> None:
    """Deletes what killed writers left of the names that match `pattern`."""
    for path in pathlib.Path(parent).glob(f"{pattern}.tmp-*"):
        shutil.rmtree(path, ignore_errors=True)


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a complete directory; raises DamagedError."""
    path = pathlib.Path(directory) / MANIFEST
    try:
        text = path.read_bytes().decode()
        manifest: dict[str, Any] = json.loads(text)
        canonical = _json_text(manifest)
        stated = manifest.pop("sha256")
    except FileNotFoundError as error:
        raise DamagedError(f"{path} is missing.") from error
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DamagedError(f"{path} is damaged: {error}.") from error
    # The digest does not see blanks, but a changed one is damage as well.
    if stated != sha256_json(manifest) or text != canonical:
        raise DamagedError(f"{path} is damaged: its digest does not match.")
    return manifest


def verify(
    directory: str | os.PathLike[str], *, content: bool = True
) -> dict[str, Any]:
    """Checks every file against the manifest, which it returns.

    Args:
      directory: written by `new_directory`.
      content: compare the sha256 of each file too, not only its size.

    Raises:
      DamagedError: names the first file that is missing or differs.
    """
    manifest = read_manifest(directory)
    for name, stated in manifest["files"].items():
        path = pathlib.Path(directory) / name
        if not path.is_file():
            raise DamagedError(f"{path} is missing.")
        if path.stat().st_size != stated["bytes"]:
            raise DamagedError(
                f"{path} has {path.stat().st_size} bytes instead of"
                f" {stated['bytes']}."
            )
        if content and sha256_file(path) != stated["sha256"]:
            raise DamagedError(f"{path} is damaged: its sha256 differs.")
    return manifest


def replace_file(
    directory: str | os.PathLike[str], name: str, content: bytes
) -> None:
    """Replaces one file of a complete directory, and what is said of it.

    Args:
      directory: written by `new_directory`.
      name: of the file, as in the manifest.
      content: the new one. Killed in the middle, `verify` names the file.
    """
    manifest = read_manifest(directory)
    path = pathlib.Path(directory) / name
    temporary = path.with_name(f"{path.name}.tmp-{os.getpid()}")
    temporary.write_bytes(content)
    _sync(temporary)
    os.replace(temporary, path)
    manifest["files"][name] = _described(path)
    write_json(
        pathlib.Path(directory) / MANIFEST,
        {**manifest, "sha256": sha256_json(manifest)},
    )


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replaces a file by a JSON value, at once and on the disk."""
    final = pathlib.Path(path)
    temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
    try:
        temporary.write_text(_json_text(value))
        _sync(temporary)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_one(final.parent)


@contextlib.contextmanager
def exclusive(
    path: str | os.PathLike[str], *, wait: bool, busy: str = ""
) -> Iterator[None]:
    """Holds a lock file; the system frees it when the process ends.

    Args:
      path: the lock file, made where it is missing.
      wait: wait for the other holder instead of raising.
      busy: the message of the ValueError where `wait` is False.
    """
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise ValueError(busy) from error
        try:
            yield
        finally:
            # Closing is not enough where a forked child holds the file too.
            fcntl.flock(file, fcntl.LOCK_UN)


def _write_manifest(directory: pathlib.Path, facts: dict[str, Any]) -> None:
    files = {
        path.relative_to(directory).as_posix(): _described(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }
    manifest = {**facts, "files": files}
    manifest["sha256"] = sha256_json({**facts, "files": files})
    (directory / MANIFEST).write_text(_json_text(manifest))


def _described(path: pathlib.Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=2) + "\n"


def _sync(path: pathlib.Path) -> None:
    """Flushes a file, or a directory with all that it holds, to the disk."""
    if path.is_dir():
        for child in path.iterdir():
            _sync(child)
    _sync_one(path)


def _sync_one(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
