"""Zip archives of strangers, as far as the standard library's reader needs help with them."""

import zipfile
import zlib

BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    IndexError,
    KeyError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)
"""What ``zipfile`` raises, one time or another, for an archive that is broken, cut off, encrypted or oddly packed."""

_PACKED = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})


def read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    """The contents of an entry.

    Raises:
        NotImplementedError: for one that is packed as no framework does: what is broken in those ends in errors that
            look like ones of the file system.
        Exception: one of ``BROKEN`` for whatever else is wrong with it.
    """
    if entry.compress_type not in _PACKED:
        raise NotImplementedError(f"an entry is packed by method {entry.compress_type}")
    return archive.read(entry)
