"""Pictures read in parts: every part is what the decoder makes of the whole file."""

import mmap
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from segc.inference.regions import DecodedPicture, TiffPicture, open_picture
from segc.inference.sources import ImageError, Source


@pytest.fixture
def image():
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 255, (9, 11, 3), np.uint8), (333, 250), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.uint8)


def tiff(pixels, tile=None, *, compress=False, order="<", big=False, rows=None, extra=()):
    """A TIFF file of samples [h, w, n] in RGB order, in tiles (height, width) or strips of ``rows``."""
    height, width, samples = pixels.shape
    down, across = tile or (rows or height, width)
    blocks = []
    for y in range(0, height, down):
        for x in range(0, width, across):
            part = pixels[y : y + down, x : x + across]
            if tile:
                part = np.pad(part, ((0, down - part.shape[0]), (0, across - part.shape[1]), (0, 0)))
            blocks.append(zlib.compress(part.tobytes()) if compress else part.tobytes())
    word, few, start = ("Q", "Q", 16) if big else ("I", "H", 8)
    places = start + np.cumsum([0, *map(len, blocks[:-1])])
    offsets, counts = (324, 325) if tile else (273, 279)
    wide = 16 if big else 4
    entries = {
        256: (4, [width]),
        257: (4, [height]),
        258: (3, [8] * samples),
        259: (3, [8 if compress else 1]),
        262: (3, [2 if samples > 2 else 1]),
        277: (3, [samples]),
        offsets: (wide, places.tolist()),
        counts: (wide, list(map(len, blocks))),
        **({322: (4, [across]), 323: (4, [down])} if tile else {278: (4, [down])}),
        **dict(extra),
    }
    body = b"".join(blocks)
    at = start + len(body) + len(body) % 2
    values_at = at + struct.calcsize(f"{order}{few}") + len(entries) * (20 if big else 12) + struct.calcsize(word)
    directory, values = struct.pack(f"{order}{few}", len(entries)), b""
    for tag, (kind, numbers) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(numbers)}{ {3: 'H', 4: 'I', 16: 'Q'}[kind] }", *numbers)
        directory += struct.pack(f"{order}HH{word}", tag, kind, len(numbers))
        if len(packed) <= struct.calcsize(word):
            directory += packed.ljust(struct.calcsize(word), b"\0")
        else:
            directory += struct.pack(f"{order}{word}", values_at + len(values))
            values += packed
    mark = b"II" if order == "<" else b"MM"
    head = struct.pack(f"{order}2sH", mark, 43 if big else 42)
    head += struct.pack(f"{order}HHQ", 8, 0, at) if big else struct.pack(f"{order}I", at)
    return head + body + b"\0" * (len(body) % 2) + directory + bytes(struct.calcsize(word)) + values


def read_all(picture, side=70):
    height, width = picture.size
    return np.concatenate(
        [
            np.concatenate(
                [picture.region(x, y, min(x + side, width), min(y + side, height)) for x in range(0, width, side)],
                axis=1,
            )
            for y in range(0, height, side)
        ]
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize(
    "form",
    [
        {"tile": (64, 48)},
        {"tile": (64, 48), "compress": True},
        {"rows": 7},
        {"rows": 7, "compress": True},
        {"rows": 96},
        {},
    ],
    ids=str,
)
def test_the_parts_of_a_tiff_file_are_those_of_the_whole(image, tmp_path, form, order, big):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(image[:, :, ::-1], order=order, big=big, **form))
    picture = open_picture(Source("a.tif", path))
    assert isinstance(picture, TiffPicture)
    assert picture.size == (250, 333)
    assert (read_all(picture) == image).all()


@pytest.mark.parametrize("compression", [1, 5, 7, 8, 32773], ids=["none", "lzw", "jpeg", "deflate", "packbits"])
def test_parts_are_decoded_in_every_way_that_opencv_writes(image, tmp_path, compression):
    path = tmp_path / "a.tif"
    assert cv2.imwrite(str(path), image, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
    picture = open_picture(Source("a.tif", path))
    assert isinstance(picture, TiffPicture)
    assert (read_all(picture) == Source("a.tif", path).read()).all()


@pytest.mark.parametrize("samples", [1, 4])
def test_grey_and_transparent_files_become_three_channels(image, tmp_path, samples):
    path = tmp_path / "a.tif"
    pixels = image[:, :, :1] if samples == 1 else np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])
    path.write_bytes(tiff(pixels, (64, 64), compress=True, extra={338: (3, [2])}.items() if samples == 4 else ()))
    picture = open_picture(Source("a.tif", path))
    assert isinstance(picture, TiffPicture)
    assert (read_all(picture) == Source("a.tif", path).read()).all()


@pytest.mark.parametrize(
    "extra", [{274: (3, [6])}, {284: (3, [2])}, {339: (3, [2, 2, 2])}], ids=["turned", "planes", "signed"]
)
def test_what_cannot_be_read_in_parts_is_decoded_whole(image, tmp_path, extra):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(image[:, :, ::-1], rows=16, extra=extra.items()))
    source = Source("a.tif", path)
    try:
        whole = source.read()
    except ImageError:
        with pytest.raises(ImageError, match=r"a\.tif"):
            open_picture(source)
        return
    picture = open_picture(source)
    assert isinstance(picture, DecodedPicture)
    assert (picture.image == whole).all()


def test_deep_samples_and_other_formats_are_decoded_whole(image, tmp_path):
    for name, pixels in (("a.tif", image.astype(np.uint16) * 257), ("a.png", image), ("a.jpg", image)):
        assert cv2.imwrite(str(tmp_path / name), pixels)
        picture = open_picture(Source(name, tmp_path / name))
        assert isinstance(picture, DecodedPicture)
        assert (picture.region(10, 20, 40, 60) == Source(name, tmp_path / name).read()[20:60, 10:40]).all()


def test_a_reduced_picture_is_the_mean_of_its_pixels(image, tmp_path):
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(image[:, :, ::-1], (64, 48), compress=True))
    found = open_picture(Source("a.tif", path)).reduced(100)
    assert found.shape == (84, 111, 3)
    expected = image[:249].reshape(83, 3, 111, 3, 3).mean(axis=(1, 3))
    assert np.abs(found[:83] - expected).max() <= 1
    assert (open_picture(Source("a.tif", path)).reduced(333) == image).all()


def test_no_more_blocks_are_kept_than_the_cache_has_room_for(image, tmp_path, monkeypatch):
    monkeypatch.setattr("segc.inference.regions.BLOCK_CACHE", 40_000)
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(image[:, :, ::-1], (64, 48), compress=True))
    picture = open_picture(Source("a.tif", path))
    assert (read_all(picture) == image).all()
    assert sum(block.nbytes for block in picture._decoded.values()) <= 40_000


def test_a_block_that_is_damaged_costs_that_block_alone_as_in_the_whole(image, tmp_path):
    path = tmp_path / "a.tif"
    content = bytearray(tiff(image[:, :, ::-1], (64, 48), compress=True))
    content[8:40] = bytes(32)
    path.write_bytes(content)
    source = Source("a.tif", path)
    assert (read_all(open_picture(source)) == source.read()).all()


def test_a_block_beyond_the_end_of_the_file_is_an_error(image, tmp_path):
    path = tmp_path / "a.tif"
    counts = {325: (4, [1 << 30] * 28)}
    path.write_bytes(tiff(image[:, :, ::-1], (64, 48), compress=True, extra=counts.items()))
    with pytest.raises(ImageError, match=r"a\.tif: block 0 of 28 is cut off"):
        open_picture(Source("a.tif", path)).region(0, 0, 10, 10)


def test_files_that_are_cut_off_or_lie_are_errors_and_never_anything_else(image, tmp_path):
    whole = tiff(image[:40, :50, ::-1], (16, 16), compress=True)
    path = tmp_path / "a.tif"
    rng = np.random.default_rng(0)
    for number in range(100):
        content = bytearray(whole)
        if number % 3 == 0:
            del content[int(rng.integers(4, len(content))) :]
        else:
            for place in rng.integers(len(whole) - 260, len(content), 3):
                content[place] = int(rng.integers(256))
        path.write_bytes(content)
        told = None
        try:
            picture = open_picture(Source("a.tif", path))
            height, width = picture.size
            picture.region(0, 0, min(50, width), min(40, height))
        except ImageError as error:
            told = str(error)
        assert told is None or told.startswith("a.tif: ")


@pytest.mark.skipif(not hasattr(mmap, "MADV_DONTNEED"), reason="this system does not give up pages of a file")
def test_what_was_read_of_a_file_does_not_stay_in_memory(tmp_path):
    path = tmp_path / "noise.tif"
    image = np.random.default_rng(0).integers(0, 255, (2000, 3000, 3), np.uint8)
    cv2.imwrite(str(path), image, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
    picture = open_picture(Source("noise.tif", path))
    assert isinstance(picture, TiffPicture)

    def mapped():
        """Bytes of files that are in this process's memory."""
        return int(Path("/proc/self/statm").read_text().split()[2]) * mmap.PAGESIZE

    before = mapped()
    assert (read_all(picture) == image).all()
    assert mapped() - before < image.nbytes / 4
