"""An object store for the tests of what is kept on gs://."""

import collections.abc
import contextlib
import fnmatch
import io
import os
import pathlib
import tempfile
import urllib.parse

import pytest
from etils.epath import backend, stat_utils


class GoneError(Exception):
    """The process does not live any more, as far as the store can tell."""


class _Objects(collections.abc.MutableMapping):
    """Contents by name, each in a file that is replaced at once."""

    def __init__(self, root):
        self._folder = pathlib.Path(root, "objects")
        self._folder.mkdir(parents=True, exist_ok=True)

    def _file(self, name):
        return self._folder / urllib.parse.quote(name, safe="")

    def __getitem__(self, name):
        try:
            return self._file(name).read_bytes()
        except FileNotFoundError:
            raise KeyError(name) from None

    def __setitem__(self, name, content):
        coming = self._folder.parent / f"coming-{os.getpid()}"
        coming.write_bytes(content)
        coming.replace(self._file(name))

    def __delitem__(self, name):
        self._file(name).unlink()

    def __iter__(self):
        names = [urllib.parse.unquote(n) for n in os.listdir(self._folder)]
        return iter(sorted(names))

    def __len__(self):
        return len(os.listdir(self._folder))


class _Writer(io.BytesIO):
    """Like TensorFlow's it makes no object where nothing is written."""

    is_written = False

    def write(self, content):
        self.is_written = True
        is_text = isinstance(content, str)
        return super().write(content.encode() if is_text else content)


class Bucket(backend.Backend):
    """What `etils` calls for gs://, with objects and nothing else.

    An object appears whole and replaces another at once. There are no
    directories, only names that begin alike; nothing is renamed, copied or
    appended to, and a tree goes object by object.

    Attributes:
      root: a directory on the disk, which several processes can share.
      changes_left: so many objects come or go, then all fails; None = no end.
    """

    def __init__(self, root):
        self.root = root
        self.objects = _Objects(root)
        self.changes_left = None

    def install(self):
        backend.tf_backend = self
        # Another process may test with a store of the same name.
        tempfile.tempdir = str(self.root)

    def _change(self):
        if self.changes_left == 0:
            raise GoneError
        if self.changes_left:
            self.changes_left -= 1

    def _find(self, path):
        if path not in self.objects:
            raise FileNotFoundError(path)

    def _below(self, path):
        return [n for n in self.objects if n.startswith(f"{path}/")]

    @contextlib.contextmanager
    def open(self, path, mode):
        text = "b" not in mode
        if mode[0] == "r":
            self._find(path)
            content = self.objects[path]
            yield io.StringIO(content.decode()) if text else io.BytesIO(content)
            return
        assert mode[0] == "w", "an object cannot be appended to"
        file = _Writer()
        try:
            yield file
        finally:  # Like TensorFlow's, it is written after an error, too.
            if file.is_written:
                self._change()
                self.objects[path] = file.getvalue()

    def exists(self, path):
        return path in self.objects or self.isdir(path)

    def isdir(self, path):
        return bool(self._below(path))

    def glob(self, path):
        parts = path.split("/")
        found = set()
        for name in self.objects:
            start = name.split("/")[: len(parts)]
            if len(start) == len(parts) and all(
                map(fnmatch.fnmatchcase, start, parts)
            ):
                found.add("/".join(start))
        return sorted(found)

    def remove(self, path):
        self._find(path)
        self._change()
        del self.objects[path]

    def rmtree(self, path):
        if not self.isdir(path):
            raise FileNotFoundError(path)
        for name in self._below(path):
            self.remove(name)

    def stat(self, path):
        self._find(path)
        return stat_utils.StatResult(
            is_directory=False, length=len(self.objects[path]), mtime=0
        )

    def makedirs(self, path, *, exist_ok=False, mode=None):
        pass  # A name needs none.

    def _refuse(self, *arguments, **options):
        raise NotImplementedError("an object store cannot do this")

    listdir = walk = mkdir = rename = replace = copy = _refuse


@pytest.fixture(name="bucket")
def _bucket(tmp_path, monkeypatch):
    """An empty store that answers for gs://."""
    monkeypatch.setattr(backend, "tf_backend", backend.tf_backend)
    monkeypatch.setattr(tempfile, "tempdir", tempfile.tempdir)
    bucket = Bucket(tmp_path / "store")
    bucket.install()
    return bucket
