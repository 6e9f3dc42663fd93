import http.server
import struct
import threading
import time
import urllib.parse
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest

from segc.inference import sources as sources_module
from segc.inference.image_headers import image_header_size
from segc.inference.output import encode_picture, first_in_place_of, output_stems, overlay_suffix
from segc.inference.sources import ImageError, Source, SourceError, decode_image, fetch, find_sources


def picture(height=24, width=32):
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([rows * 5, columns * 5, rows + columns], axis=2).astype(np.uint8)


def encoded(suffix, image=None):
    return cv2.imencode(suffix, picture() if image is None else image)[1].tobytes()


def names(items):
    return [source.name for source in find_sources([str(item) for item in items])]


@pytest.fixture
def folder(tmp_path):
    for name in ("b.JPG", "a.png", "c.webp", "notes.txt", ".hidden.jpg", "sub/d.tif", "sub/deeper/e.bmp"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" if path.suffix == ".txt" else encoded(path.suffix.lower()))
    return tmp_path


# What arguments name


def test_a_folder_gives_its_images_sorted_and_none_from_below(folder):
    assert names([folder]) == [str(folder / name) for name in ("a.png", "b.JPG", "c.webp")]


def test_numbers_in_names_come_in_their_order_with_or_without_zeros(tmp_path):
    names = ["9.png", "010.png", "10.png", "a2b.png", "a10.png", "a10b1.png", "a10b02.png", "b.png", "ä1.png"]
    for name in reversed(names):
        (tmp_path / name).write_bytes(b"")
    assert [source.path.name for source in find_sources([str(tmp_path)])] == [
        "9.png", "010.png", "10.png", "a2b.png", "a10.png", "a10b1.png", "a10b02.png", "b.png", "ä1.png",
    ]  # fmt: skip
    (tmp_path / "2").mkdir()
    (tmp_path / "10").mkdir()
    for folder in ("2", "10"):
        (tmp_path / folder / "0.png").write_bytes(b"")
    assert [source.path.parent.name for source in find_sources([str(tmp_path / "*" / "*.png")])] == ["2", "10"]


def test_patterns_may_reach_into_all_folders(folder):
    assert names([folder / "*.JP*"]) == [str(folder / "b.JPG")]
    found = names([folder / "**" / "*"])
    assert found == sorted(str(folder / n) for n in ("a.png", "b.JPG", "c.webp", "sub/d.tif", "sub/deeper/e.bmp"))


def test_order_is_that_of_the_arguments_and_an_image_comes_once(folder):
    link = folder / "z.png"
    link.symlink_to(folder / "a.png")
    found = names([folder / "c.webp", folder / "a.png", link, folder])
    assert found == [str(folder / name) for name in ("c.webp", "a.png", "b.JPG")]


def test_a_name_that_exists_is_not_read_as_a_pattern(folder):
    odd = folder / "shot [1].png"
    odd.write_bytes(encoded(".png"))
    assert names([odd]) == [str(odd)]


@pytest.mark.parametrize(
    ("item", "says"),
    [
        ("nowhere.jpg", "no such file"),
        ("*.nothing", "no image or video matches"),
        ("", "empty"),
        ("ftp://host/a.jpg", "only http, https, rtsp"),
        ("file:///etc/passwd", "only http, https, rtsp"),
        ("http://[::1/a.jpg", "not an address"),
    ],
)
def test_an_argument_that_names_nothing_is_refused(item, says):
    with pytest.raises(SourceError, match=says):
        find_sources([item])


def test_a_folder_without_images_is_refused(tmp_path):
    with pytest.raises(SourceError, match="no images or videos in this folder"):
        find_sources([str(tmp_path)])


# Files


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"])
def test_every_format_is_read_and_its_header_tells_the_size(tmp_path, suffix):
    path = tmp_path / f"größe 猫{suffix}"
    path.write_bytes(encoded(suffix))
    (source,) = find_sources([str(path)])
    image = source.read()
    assert image.shape == (24, 32, 3)
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture()).mean() < 6
    assert image_header_size(path.read_bytes()) == (24, 32)


@pytest.mark.parametrize("shape", [(301, 17), (17, 301)])
def test_webp_headers_of_all_kinds_tell_the_size(shape):
    image = picture(*shape)
    lossless = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 101])[1].tobytes()
    lossy = cv2.imencode(".webp", image, [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
    transparent = np.dstack([image, np.full(shape, 9, np.uint8)])
    extended = cv2.imencode(".webp", transparent, [cv2.IMWRITE_WEBP_QUALITY, 50])[1].tobytes()
    assert {data[12:16] for data in (lossless, lossy, extended)} == {b"VP8L", b"VP8 ", b"VP8X"}
    assert [image_header_size(data) for data in (lossless, lossy, extended)] == [shape] * 3


@pytest.mark.parametrize("kind", ["grey", "alpha", "16-bit", "16-bit grey"])
def test_unusual_pixels_become_eight_bit_colour(kind):
    base = picture()
    image = {
        "grey": base[..., 0],
        "alpha": np.dstack([base, np.zeros(base.shape[:2], np.uint8)]),
        "16-bit": base.astype(np.uint16) * 257,
        "16-bit grey": base[..., 0].astype(np.uint16) * 257,
    }[kind]
    found = decode_image(encoded(".png", image), "a.png")
    expected = base[..., :1].repeat(3, axis=2) if "grey" in kind else base
    assert (found == expected).all()


def exif_turned(data, orientation):
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    body = b"Exif\0\0II*\0" + struct.pack("<I", 8) + struct.pack("<H", 1) + entry + struct.pack("<I", 0)
    return data[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + data[2:]


def test_exif_orientation_is_applied_as_in_training(tmp_path):
    from segc.data.samples import read_image

    path = tmp_path / "turned.jpg"
    path.write_bytes(exif_turned(encoded(".jpg"), 6))
    found = find_sources([str(path)])[0].read()
    assert found.shape == (32, 24, 3)
    assert (found == read_image(path)).all()


def png_of_size(height, width):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def webp_of_size(height, width):
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\0" * 4
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body


@pytest.mark.parametrize(
    "data",
    [
        png_of_size(60_000, 60_000),
        webp_of_size(16_000, 16_000),
        encoded(".jpg").replace(struct.pack(">HH", 24, 32), struct.pack(">HH", 65_000, 65_000)),
        encoded(".bmp").replace(struct.pack("<ii", 32, 24), struct.pack("<ii", 65_000, -65_000)),
    ],
    ids=["png", "webp", "jpeg", "bmp"],
)
def test_a_decompression_bomb_is_refused_by_its_header(data):
    start = time.perf_counter()
    with pytest.raises(ImageError, match=r"bomb: .*(pixels; the limit is 128 Mi|cannot hold 60000 by)"):
        decode_image(data, "bomb")
    assert time.perf_counter() - start < 0.2


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "empty"),
        (b"\xff\xd8\xff\xe0 no more", "cut off"),
        (encoded(".jpg")[:-40], "cut off"),
        (encoded(".png")[:30], "cut off"),
        (b"II*\0\xff\xff\xff\xff", "cut off"),
        (b"RIFF", "not an image"),
        (b"BM", "cut off"),
        (b"<html>", "not an image"),
        (bytes(range(256)) * 50, "not an image"),
    ],
)
def test_what_is_no_image_is_refused_by_name(data, says):
    with pytest.raises(ImageError, match=f"photo: .*{says}"):
        decode_image(data, "photo")


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_a_file_cut_off_anywhere_never_raises_anything_else(suffix):
    data = encoded(suffix)
    for length in range(0, len(data), max(1, len(data) // 60)):
        image_header_size(data[:length])
        try:
            decode_image(data[:length], "photo")
        except ImageError:
            continue


def test_a_folder_or_a_vanished_file_cannot_be_read(tmp_path):
    path = tmp_path / "a.jpg"
    path.mkdir()
    with pytest.raises(ImageError, match="not a file"):
        Source("a.jpg", path).read()
    with pytest.raises(ImageError, match="not a file"):
        Source("gone.jpg", tmp_path / "gone.jpg").read()


# The web


class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        path = urllib.parse.urlsplit(self.path).path
        if path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", urllib.parse.unquote(path[4:]))
            self.end_headers()
            return
        body, length = {
            "/photo.jpg": (encoded(".jpg"), None),
            "/%C3%A4%20b.png": (encoded(".png"), None),
            "/page": (b"<html></html>", None),
            "/boastful": (b"x", 1 << 40),
            "/endless": (b"x" * 5000, ...),
            "/broken": (b"x" * 100, 200),
            "/slow": (b"", ...),
            "/odd": (encoded(".png"), "many"),
        }.get(path, (None, None))
        if body is None:
            self.send_error(404)
            return
        self.send_response(200)
        if length is not ...:
            self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)
        if path == "/slow":
            for _ in range(30):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.05)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.parametrize("path", ["/photo.jpg", "/photo.jpg?size=9#top", "/ä b.png", "/%C3%A4%20b.png", "/odd"])
def test_an_address_is_fetched_and_decoded(site, path):
    (source,) = find_sources([site + path])
    assert source.read().shape == (24, 32, 3)


def test_redirects_on_the_web_are_followed(site):
    (source,) = find_sources([f"{site}/to/{urllib.parse.quote('/photo.jpg', safe='')}"])
    assert source.read().shape == (24, 32, 3)


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/a.jpg", "data:image/png;base64,AAAA"])
def test_redirects_away_from_the_web_are_not(site, target):
    with pytest.raises(
        ImageError, match=r"redirects to an address that is not http|Redirection to url .* is not allowed"
    ):
        fetch(f"{site}/to/{urllib.parse.quote(target, safe='')}")


def test_a_circle_of_redirects_ends(site):
    own = urllib.parse.quote("/to/%2Fto%2Fx", safe="")
    with pytest.raises(ImageError, match="the server answered"):
        fetch(f"{site}/to/{own}")


@pytest.mark.parametrize(
    ("path", "says"),
    [("/missing.jpg", "answered 404"), ("/boastful", "larger than 64 MB"), ("/broken", "after 100 of 200 bytes")],
)
def test_a_fault_of_the_server_is_named_with_the_address(site, path, says):
    with pytest.raises(ImageError, match=f"{site}{path}: .*{says}"):
        fetch(site + path)


def test_a_page_is_no_image(site):
    with pytest.raises(ImageError, match="not an image"):
        find_sources([f"{site}/page"])[0].read()


def test_size_and_time_are_bounded_where_the_server_promises_nothing(site):
    with pytest.raises(ImageError, match="larger than"):
        fetch(f"{site}/endless", limit=4096)
    start = time.monotonic()
    with pytest.raises(ImageError, match="not downloaded within"):
        fetch(f"{site}/slow", seconds=0.3)
    assert time.monotonic() - start < 1.2


def test_a_silent_or_absent_server_is_given_up(monkeypatch):
    import socket

    monkeypatch.setattr(sources_module, "SOCKET_SECONDS", 0.2)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        with pytest.raises(ImageError, match="cannot be reached"):
            fetch(f"http://127.0.0.1:{port}/a.jpg")
        listener.listen()
        with pytest.raises(ImageError, match=r"cannot be reached|broke off"):
            fetch(f"http://127.0.0.1:{port}/a.jpg")


NO_ADDRESSES = (
    "http://",
    "http:///a.jpg",
    "http://host:port/a.jpg",
    "http://host:99999999/a.jpg",
    "http://[::1/",
    "http://a..b/",
    f"http://{'a' * 64}.org/",
    "http://a\nb/",
    "file:///etc/hostname",
)


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_an_address_that_is_none_is_an_image_error(url):
    with pytest.raises(ImageError):
        fetch(url)


def drip(connection, first, again=b"x"):
    """Send something, then a byte at a time for ever."""
    connection.recv(1 << 16)
    try:
        connection.sendall(first)
        while True:
            connection.sendall(again)
            time.sleep(0.02)
    except OSError:
        pass


SLOW = {
    "status line": (b"HTTP/1.1 200 ", b"O"),
    "headers": (b"HTTP/1.1 200 OK\r\nX-A: ", b"x"),
    "header after header": (b"HTTP/1.1 200 OK\r\n", b"X-A: x\r\n"),
    "chunk size": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    "trailers": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-A: ", b"x"),
    "continue without end": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "body of a redirect": (b"HTTP/1.1 302 Found\r\nLocation: /b.jpg\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
}


@pytest.mark.parametrize("what", SLOW)
def test_one_deadline_is_over_the_whole_exchange(what):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            connection, _ = listener.accept()
            with connection:
                drip(connection, *SLOW[what])

        server = threading.Thread(target=serve)
        server.start()
        with pytest.raises(ImageError, match=r"not downloaded within 0\.3 seconds"):
            fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/a.jpg", seconds=0.3)
        # The connection is closed with it, or the server would send for ever.
        server.join(10)
        assert not server.is_alive()


# Names of what is made


def test_outputs_of_equal_names_do_not_clash():
    given = ["x/a.jpg", "y/a.png", "y/A.jpg", "a-2.jpg", "http://host/a.jpg?b=1", "http://host/"]
    sources = [Source(name, None if "://" in name else Path(name)) for name in given]
    assert output_stems(sources) == ["a", "a-3", "A-4", "a-2", "a-5", "image"]


@pytest.mark.parametrize(
    "url", ["http://h/..", "http://h/%2e%2e%2fetc%2fpasswd", "http://h/a%00b.jpg", "http://h/" + "n" * 999]
)
def test_names_from_the_web_are_made_safe(tmp_path, url):
    stem = Source(url).stem
    path = tmp_path / f"{stem}.jpg"
    assert path.resolve().parent == tmp_path.resolve()
    path.write_bytes(b"")


def test_a_file_name_of_any_bytes_can_be_printed(tmp_path):
    path = tmp_path / "caf\udce9.png"
    try:
        path.write_bytes(encoded(".png"))
    except (OSError, UnicodeError):
        pytest.skip("this file system takes only UTF-8 names")
    (source,) = find_sources([str(tmp_path)])
    assert source.name.encode().decode().endswith("caf\ufffd.png")
    assert source.stem == "caf_"
    assert source.read().shape == (24, 32, 3)


def test_a_png_stays_a_png():
    assert [overlay_suffix(Source(name, Path(name))) for name in ("a.PNG", "a.bmp", "a")] == [".png", ".jpg", ".jpg"]
    assert overlay_suffix(Source("http://host/x.png?y=.jpg")) == ".png"


def test_pictures_are_encoded_in_the_format_of_their_suffix():
    assert (cv2.imdecode(np.frombuffer(encode_picture(picture(), ".png"), np.uint8), 1) == picture()).all()
    assert encode_picture(picture(), ".jpg").startswith(b"\xff\xd8")
    with pytest.raises(ValueError, match=r"cannot be written as \.jpg"):
        encode_picture(np.zeros((1, 70_000, 3), np.uint8), ".jpg")


def test_an_output_in_place_of_an_original_is_found_through_links(tmp_path):
    original, other = tmp_path / "a.jpg", tmp_path / "b.jpg"
    original.write_bytes(b"")
    other.write_bytes(b"")
    (tmp_path / "link").symlink_to(tmp_path)
    through = tmp_path / "link" / "a.jpg"
    assert first_in_place_of([other, through], [original]) == through
    assert first_in_place_of([other, tmp_path / "new.jpg"], [original, tmp_path / "new.jpg"]) is None
