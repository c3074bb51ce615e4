"""Directories and files on the disk or on gs://, which appear whole."""

from storage.directories import (
    MANIFEST,
    DamagedError,
    append,
    complete,
    exclusive,
    in_store,
    new_directory,
    path_of,
    read_manifest,
    remove_directory,
    remove_unfinished,
    replace_file,
    sha256_file,
    sha256_json,
    verify,
    write_bytes,
    write_json,
)
from storage.lease import LostLeaseError

__all__ = [
    "MANIFEST",
    "DamagedError",
    "LostLeaseError",
    "append",
    "complete",
    "exclusive",
    "in_store",
    "new_directory",
    "path_of",
    "read_manifest",
    "remove_directory",
    "remove_unfinished",
    "replace_file",
    "sha256_file",
    "sha256_json",
    "verify",
    "write_bytes",
    "write_json",
]
