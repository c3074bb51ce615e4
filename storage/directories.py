"""Directories that appear whole or not at all, and a lock for one writer.

A directory is written under a temporary name; its `manifest.json` (size and
sha256 of every file, and a digest of itself) comes last; then everything is
flushed to the disk and renamed. Whoever finds the final name finds all of it.

In an object store, gs://, nothing can be renamed or appended to, but an object
appears whole. There the manifest is what makes a directory complete: it is the
last object to come and the first to go, and without it nobody reads the rest.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any, cast

from storage import lease

MANIFEST = "manifest.json"
_CHUNK_BYTES = 2**24


class DamagedError(ValueError):
    """A file is missing, has another size, or another content."""


def path_of(name: str | os.PathLike[str]) -> pathlib.Path:
    """A path on the disk or on gs://.

    Raises:
      ValueError: the path is in another kind of object store.
    """
    text = os.fspath(name)
    if not in_store(text):
        return pathlib.Path(text)
    if not text.startswith("gs://"):
        raise ValueError(f"{text}: of object stores only gs:// is known.")
    # Its first use imports TensorFlow, whose client it calls.
    from etils import epath

    return cast(pathlib.Path, epath.Path(text))


def in_store(path: str | os.PathLike[str]) -> bool:
    """Whether a path is in an object store, not on the disk."""
    return "://" in os.fspath(path)


def complete(
    parent: str | os.PathLike[str], pattern: str
) -> list[pathlib.Path]:
    """The directories with a name that matches, without unfinished ones."""
    folder = path_of(parent)
    if in_store(folder):
        return [file.parent for file in folder.glob(f"{pattern}/{MANIFEST}")]
    return [*folder.glob(pattern)]


def sha256_file(path: str | os.PathLike[str]) -> str:
    """The hexadecimal sha256 of a file's content."""
    digest = hashlib.sha256()
    with path_of(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """The hexadecimal sha256 of a JSON value, whatever the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def new_directory(
    path: str | os.PathLike[str],
    *,
    facts: dict[str, Any],
    replace: bool = False,
) -> Iterator[pathlib.Path]:
    """Yields a temporary directory that becomes `path` if the block succeeds.

    Args:
      path: the final name.
      facts: what the manifest says besides the files. The block may add to it.
      replace: delete what has that name, once the new one is written;
        without, there must be nothing, or the same in an object store.
    """
    final = path_of(path)
    temporary = _temporary(final)
    try:
        yield temporary
        _write_manifest(temporary, facts)
        if not in_store(final):
            _sync(temporary)
        if replace:
            remove_directory(final)
        if in_store(final):
            _upload(temporary, final)
        else:
            os.rename(temporary, final)
            _sync_one(final.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_directory(path: str | os.PathLike[str]) -> None:
    """Deletes a directory, if it exists; it is incomplete from the start."""
    doomed = path_of(path)
    if in_store(doomed):
        lease.require(doomed)
        (doomed / MANIFEST).unlink(missing_ok=True)
        _remove_tree(doomed)
    elif doomed.exists():
        unnamed = doomed.with_name(f"{doomed.name}.tmp-{os.getpid()}-old")
        _remove_tree(unnamed)
        os.rename(doomed, unnamed)
        _remove_tree(unnamed)


def remove_unfinished(parent: str | os.PathLike[str], pattern: str) -> None:
    """Deletes what killed writers left of the names that match `pattern`."""
    folder = path_of(parent)
    if in_store(folder):
        lease.require(folder / pattern)
        left = {*folder.glob(pattern)} - {*complete(folder, pattern)}
        near = pathlib.Path(tempfile.gettempdir())
        left |= {*near.glob(f"{_temporary_prefix(folder)}*")}
    else:
        left = {*folder.glob(f"{pattern}.tmp-*")}
    for path in left:
        _remove_tree(path)


def read_manifest(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """The manifest of a complete directory; raises DamagedError."""
    path = path_of(directory) / MANIFEST
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
        path = path_of(directory) / name
        try:
            size = _size(path)
        except FileNotFoundError as error:
            raise DamagedError(f"{path} is missing.") from error
        if size != stated["bytes"]:
            raise DamagedError(
                f"{path} has {size} bytes instead of {stated['bytes']}."
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
    path = path_of(directory) / name
    write_bytes(path, content)
    manifest["files"][name] = _described(path)
    write_json(
        path_of(directory) / MANIFEST,
        {**manifest, "sha256": sha256_json(manifest)},
    )


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replaces a file by a JSON value, at once and on the disk."""
    write_bytes(path, _json_text(value).encode())


def write_bytes(path: str | os.PathLike[str], content: bytes) -> None:
    """Replaces a file, at once and on the disk."""
    final = path_of(path)
    if in_store(final):
        lease.require(final)
        final.write_bytes(content)
        return
    temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
    try:
        temporary.write_bytes(content)
        _sync(temporary)
        os.replace(temporary, final)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_one(final.parent)


def append(path: str | os.PathLike[str], text: str) -> None:
    """Adds to the end of a file; in an object store it is written anew."""
    file = path_of(path)
    if in_store(file):
        lease.require(file)
        before = file.read_bytes() if file.exists() else b""
        file.write_bytes(before + text.encode())
        return
    with file.open("a") as opened:
        opened.write(text)


@contextlib.contextmanager
def exclusive(
    path: str | os.PathLike[str], *, wait: bool, busy: str = ""
) -> Iterator[None]:
    """Holds a lock file; the system frees it when the process ends.

    Args:
      path: the lock file, made where it is missing. In an object store it is
        a lease, which a killed holder loses after 40 seconds.
      wait: wait for another holder instead of raising; in a store, take no
        lease at all.
      busy: the message of the ValueError if `wait` is False.
    """
    if in_store(path):
        held = lease.held(path_of(path), busy=busy)
        with contextlib.nullcontext() if wait else held:
            yield
        return
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


def _temporary(final: pathlib.Path) -> pathlib.Path:
    """A new directory: next to the final one, or on the disk before a store."""
    if in_store(final):
        prefix = _temporary_prefix(final.parent)
        return pathlib.Path(tempfile.mkdtemp(prefix=prefix))
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_name(f"{final.name}.tmp-{os.getpid()}")
    _remove_tree(temporary)
    temporary.mkdir()
    return temporary


def _temporary_prefix(parent: pathlib.Path) -> str:
    """The prefix of temporary directories that a store's folder will hold."""
    return f"cloze-{sha256_json(str(parent))[:16]}-"


def _upload(directory: pathlib.Path, final: pathlib.Path) -> None:
    """Copies every file to an object store, the manifest last."""
    files = [path for path in directory.rglob("*") if path.is_file()]
    for path in sorted(files, key=lambda path: path.name == MANIFEST):
        lease.require(final)  # Copying the file before took its time.
        name = path.relative_to(directory).as_posix()
        with path.open("rb") as near, (final / name).open("wb") as far:
            far.write(b"")  # Else TensorFlow makes no object of an empty file.
            shutil.copyfileobj(near, far, _CHUNK_BYTES)


def _remove_tree(path: pathlib.Path) -> None:
    if in_store(path):
        cast(Any, path).rmtree(missing_ok=True)
    else:
        shutil.rmtree(path, ignore_errors=True)


def _size(path: pathlib.Path) -> int:
    status: Any = path.stat()
    size: int = status.length if in_store(path) else status.st_size
    return size


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
    return {"bytes": _size(path), "sha256": sha256_file(path)}


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
