"""Whatever is wrong with an archive is one of the errors that its readers expect."""

import io
import subprocess
import sys
import zipfile

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segc.archives import BROKEN, read_entry
from segc.diagnostics import SegcError
from segc.emission.script import render_files
from segc.inference.filters import Filters
from segc.inference.metadata import SIDECAR, Metadata, ModelError
from segc.targets.litert.runtime import DIGEST, read_model
from segc.targets.registry import targets
from segc.targets.torchscript import guard

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
        "m.torchscript": (guard.check, ["m/code/m.py", "m/extra/x"]),
    }
    for file, (read, names) in readers.items():
        path = tmp_path / file
        path.write_bytes(spoiled(archive(PACKINGS[packing], *names)))
        with pytest.raises((SegcError, ModelError)):
            read(path)


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_predict_script_refuses_a_spoiled_model_in_one_line(packing, tmp_path):
    target = targets()["tflite"]
    (script,) = render_files(
        target, target.default_options(), "m.tflite", Metadata(("a",), (64, 64)), Filters()
    ).items()
    (tmp_path / script[0]).write_text(script[1])
    (tmp_path / "m.tflite").write_bytes(spoiled(archive(PACKINGS[packing], SIDECAR, DIGEST)))
    command = [sys.executable, str(tmp_path / script[0]), str(tmp_path)]
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert (
        done.stderr == f"{tmp_path / 'm.tflite'}: not a model of segc, or cut off: there are no metadata at its end\n"
    )


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
