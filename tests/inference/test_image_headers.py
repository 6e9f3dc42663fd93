"""What image files ask of their decoders: refused before they are decoded, and nothing said between our lines."""

import os
import random
import struct
import threading
import zlib
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from PIL import Image

from segc.inference import image_headers
from segc.inference.frames import read_still
from segc.inference.image_headers import HeaderError, check_image_header, further_pictures, quiet_decoders
from segc.inference.sources import ImageError, decode_image, find_sources

FORMATS = (
    ".avif",
    ".bmp",
    ".gif",
    ".hdr",
    ".jp2",
    ".jpg",
    ".pam",
    ".pfm",
    ".pgm",
    ".png",
    ".ppm",
    ".ras",
    ".tif",
    ".webp",
)


def picture(suffix, height=40, width=60):
    image = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (height, width, 3)).astype(np.uint8), (9, 9), 3)
    if suffix in (".pfm", ".hdr"):
        return image.astype(np.float32) / 255
    return image[..., 0] if suffix == ".pgm" else image


def encoded(suffix, *options, **size):
    try:
        return cv2.imencode(suffix, picture(suffix, **size), options)[1].tobytes()
    except cv2.error:
        pytest.skip(f"this OpenCV writes no {suffix}")


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_tells_its_size_and_is_decoded_as_opencv_does(suffix):
    data = encoded(suffix)
    assert check_image_header(data) == (40, 60)
    if suffix in (".pfm", ".hdr"):
        with pytest.raises(ImageError, match="samples are float32"):
            decode_image(data, "a")
        return
    assert (decode_image(data, "a") == cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)).all()


@pytest.mark.parametrize("suffix", FORMATS)
def test_no_mutation_costs_memory_or_raises_anything_but_an_image_error(suffix, capfd):
    numbers, data = random.Random(1), encoded(suffix)
    for _ in range(60):
        broken = bytearray(data)
        for _ in range(numbers.choice((1, 2, 8))):
            broken[numbers.randrange(min(len(broken), numbers.choice((40, 10**6))))] = numbers.choice(
                (0, 127, 128, 255)
            )
        try:
            decode_image(bytes(broken), "a")
        except ImageError:
            continue
    # libpng and libjpeg write to the C library's stream, OpenCV to its log.
    assert capfd.readouterr() == ("", "")


def chunk(kind, data, length=None):
    return (
        struct.pack(">I", len(data) if length is None else length)
        + kind
        + data
        + struct.pack(">I", zlib.crc32(kind + data))
    )


PNG = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))


@pytest.mark.parametrize("kind", [b"IDAT", b"PLTE", b"iCCP", b"eXIf"])
def test_a_png_chunk_longer_than_its_file_is_refused(kind):
    with pytest.raises(HeaderError, match=f"a chunk {kind.decode()} of 4294963273 bytes at byte 41, the file has"):
        check_image_header(PNG + chunk(kind, b"xv", 0xFFFFF049))


def test_a_png_without_its_end_is_cut_off():
    with pytest.raises(HeaderError, match="cut off"):
        check_image_header(PNG + chunk(b"IDAT", zlib.compress(bytes(200))))


def tiff(*entries, order="<"):
    rows = b"".join(struct.pack(f"{order}HHII", *entry) for entry in entries)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(entries)) + rows + bytes(4)


LYING = {
    "a TIFF entry of 4 GB": (
        tiff((256, 4, 1, 8), (257, 4, 1, 8), (279, 4, 1 << 30, 8)),
        "an entry 279 of 4294967296 bytes",
    ),
    "a TIFF of endless tiles": (
        tiff((256, 4, 1, 8), (257, 4, 1, 8), (322, 4, 1, 1 << 20), (323, 4, 1, 1 << 20)),
        "tiles of 1048576 by",
    ),
    "a TIFF of a gigapixel": (tiff((256, 4, 1, 1 << 15), (257, 4, 1, 1 << 15)), "32768 by 32768 pixels"),
    "a TIFF of no size": (tiff((256, 4, 1, 8)), "names no size"),
    "a TIFF directory beyond the file": (b"II*\0\x08\0\0\0\xff\xff", "a directory of 786420 bytes"),
    "a WebP longer than its file": (b"RIFF\xff\xff\xff\x7fWEBPVP8 ", "a picture of"),
    "a GIF of 4 gigapixels": (b"GIF89a" + struct.pack("<HH", 65535, 65535), "65535 by 65535 pixels"),
    "a PPM of 400 megapixels": (b"P6 20000 20000 255\n", "20000 by 20000 pixels"),
    "an HDR of 400 megapixels": (b"#?RADIANCE\n\n-Y 20000 +X 20000\n", "20000 by 20000 pixels"),
    "a PAM of no width": (b"P7\nWIDTH 0\nHEIGHT 3\nENDHDR\n", "0 by 3 pixels"),
    "a Sun raster with an endless palette": (
        b"\x59\xa6\x6a\x95" + struct.pack(">7I", 8, 8, 24, 0, 1, 1, 1 << 31),
        "a palette of",
    ),
    "a BMP with endless headers": (
        b"BM" + struct.pack("<IIII", 0, 0, 1 << 30, 40) + struct.pack("<ii", 8, 8),
        "headers of 1073741824 bytes",
    ),
    "a JPEG 2000 box of 2^60 bytes": (
        b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x01ftyp" + struct.pack(">Q", 1 << 60),
        "a box ftyp of",
    ),
    "a JPEG 2000 box smaller than its header": (
        b"\0\0\0\x0cjP  \r\n\x87\n\0\0\0\x04ftyp",
        "smaller than its own header",
    ),
}
"""Headers that ask for more than there is, or than there may be, and what is said of them."""


@pytest.mark.parametrize(("data", "says"), LYING.values(), ids=LYING)
def test_lengths_and_sizes_are_held_against_the_file(data, says):
    with pytest.raises(HeaderError, match=says):
        check_image_header(data)


def test_scans_of_a_jpeg_are_bounded():
    data = encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    frame = data.index(b"\xff\xc2")
    large = data[: frame + 5] + struct.pack(">HH", 10000, 10000) + data[frame + 9 :]
    scan = large.index(b"\xff\xda")
    assert check_image_header(large) == (10000, 10000)
    with pytest.raises(HeaderError, match="scans of 10000 by 10000 pixels would take too long"):
        check_image_header(large[:scan] + large[scan : scan + 10] * 40 + large[scan:])


def test_code_blocks_of_a_jpeg_2000_image_are_bounded():
    data = bytearray(encoded(".jp2"))
    size = data.index(b"\xff\x51")
    data[size + 6 : size + 14] = data[size + 22 : size + 30] = struct.pack(">II", 11000, 11000)
    assert check_image_header(bytes(data)) == (11000, 11000)
    style = data.index(b"\xff\x52")
    data[style + 10 : style + 12] = b"\0\0"  # blocks of 4 by 4
    with pytest.raises(HeaderError, match="more code blocks"):
        check_image_header(bytes(data))


def test_the_stream_for_errors_is_silent_only_while_somebody_decodes(capfd):
    broken = bytearray(encoded(".jpg"))
    broken[broken.index(b"\xff\xdb") : 0] = b"extraneous"
    with quiet_decoders():
        thread = threading.Thread(target=image_headers._quietness().enter)
        thread.start()
        thread.join()
    cv2.imdecode(np.frombuffer(bytes(broken), np.uint8), cv2.IMREAD_COLOR)
    assert not capfd.readouterr().err
    image_headers._quietness().leave()
    os.write(2, b"python and others are heard\n")
    cv2.imdecode(np.frombuffer(bytes(broken), np.uint8), cv2.IMREAD_COLOR)
    heard = capfd.readouterr().err
    assert heard.startswith("python and others are heard\n")
    assert "extraneous bytes" in heard


@pytest.mark.parametrize("place", ["cv2.utils.logging", "cv2"])
def test_opencv_is_quiet_wherever_it_takes_its_level(monkeypatch, place):
    levels = []
    home = SimpleNamespace(setLogLevel=lambda level: levels.append(level) or 3)
    places = {
        "cv2.utils.logging": SimpleNamespace(utils=SimpleNamespace(logging=home)),
        "cv2": SimpleNamespace(utils=SimpleNamespace(), setLogLevel=home.setLogLevel),
    }
    monkeypatch.setattr(image_headers, "cv2", places[place])
    with quiet_decoders():
        assert levels == [0]
    assert levels == [0, 3]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_process_forked_while_another_thread_decodes_decodes_too():
    with quiet_decoders():
        # The lock as it is in the child of a fork that another thread was in the middle of.
        image_headers._quietness()._lock.acquire()
        try:
            child = os.fork()
            if not child:
                os._exit(0 if decode_image(encoded(".png"), "a").shape == (40, 60, 3) else 1)
        finally:
            image_headers._quietness()._lock.release()
        assert os.waitpid(child, 0)[1] == 0


def several(path, **options):
    """A file of four pictures."""
    first, *others = (Image.fromarray(np.full((20, 30, 3), 60 * number, np.uint8)) for number in range(4))
    first.save(path, save_all=True, append_images=others, **options)
    return path


@pytest.mark.parametrize("suffix", [".gif", ".png", ".webp", ".tif"])
def test_the_pictures_of_a_file_behind_its_first_one_are_counted(tmp_path, suffix):
    data = several(tmp_path / f"a{suffix}").read_bytes()
    assert further_pictures(data) == 3
    assert [further_pictures(data[:end]) for end in range(12)] == [0] * 12
    assert all(0 <= further_pictures(data[:end]) <= 3 for end in range(len(data)))
    Image.new("RGB", (30, 20)).save(tmp_path / f"b{suffix}")
    assert further_pictures((tmp_path / f"b{suffix}").read_bytes()) == 0


def test_smaller_ones_of_a_picture_and_pages_in_a_circle_are_no_more_pictures(tmp_path):
    image, small = Image.new("RGB", (30, 20)), Image.new("RGB", (15, 10))
    small.encoderinfo = {"tiffinfo": {254: 1}}
    image.save(tmp_path / "a.tif", save_all=True, append_images=[small])
    assert further_pictures((tmp_path / "a.tif").read_bytes()) == 0
    image.save(tmp_path / "a.tif", save_all=True, append_images=[image])
    data = (tmp_path / "a.tif").read_bytes()
    assert further_pictures(data) == 1
    start = struct.unpack_from("<I", data, 4)[0]
    number = struct.unpack_from("<H", data, start)[0]
    circle = bytearray(data)
    struct.pack_into("<I", circle, start + 2 + 12 * number, start)
    assert further_pictures(bytes(circle)) == 0


@pytest.mark.parametrize(("suffix", "tile"), [(".gif", False), (".tif", False), (".tif", True)])
def test_of_several_pictures_in_a_file_the_others_are_told_with_their_number(tmp_path, suffix, tile):
    (source,) = find_sources([str(several(tmp_path / f"a{suffix}"))])
    frame = read_still(source, in_parts=tile)
    assert (frame.picture is not None) == tile
    assert frame.remarks() == ["only the first picture of the file, without 3 more"]
    assert cv2.imwrite(str(tmp_path / "b.jpg"), frame.image)
    (source,) = find_sources([str(tmp_path / "b.jpg")])
    assert read_still(source, in_parts=tile).remarks() == []
