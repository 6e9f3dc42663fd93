"""Whatever is wrong with an archive is one of the errors that its readers expect."""

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.archives import BROKEN, read_entry
from segc.diagnostics import SegcError
from segc.targets.litert import DIGEST, SIDECAR, read_model
from segc.targets.torchscript import read_archive

PACKINGS = {
    "stored": zipfile.ZIP_STORED,
    "deflated": zipfile.ZIP_DEFLATED,
    "bzip2": zipfile.ZIP_BZIP2,
    "lzma": zipfile.ZIP_LZMA,
}


def archive(packing: int, *names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", packing) as made:
        for name in names:
            made.writestr(name, b"a text that is worth packing, " * 40)
    return content.getvalue()


def spoiled(content: bytes) -> bytes:
    """The first bytes of every entry are others."""
    changed = bytearray(content)
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        for entry in whole.infolist():
            start = entry.header_offset + 30 + len(entry.filename)
            for place in range(start, start + min(entry.compress_size, 24)):
                changed[place] ^= 0x5A
    return bytes(changed)


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_spoiled_model_is_refused_however_it_is_packed(packing, tmp_path):
    readers = {
        "m.tflite": (read_model, [SIDECAR, DIGEST]),
        "m.torchscript": (read_archive, ["m/code/m.py", "m/extra/x"]),
    }
    for file, (read, names) in readers.items():
        path = tmp_path / file
        path.write_bytes(spoiled(archive(PACKINGS[packing], *names)))
        with pytest.raises(SegcError, match="T006"):
            read(path)


@given(data=st.data(), packing=st.sampled_from(list(PACKINGS.values())))
def test_no_damage_ends_in_another_error(data, packing):
    content = bytearray(archive(packing, "a", "b"))
    for place in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=8)):
        content[place] ^= data.draw(st.integers(1, 255))
    try:
        with zipfile.ZipFile(io.BytesIO(bytes(content[: data.draw(st.integers(0, len(content)))]))) as damaged:
            for entry in damaged.infolist():
                read_entry(damaged, entry)
    except BROKEN:
        pass
