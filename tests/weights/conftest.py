"""Checkpoints made for the tests, and a server that gives files in the ways that servers do."""

import contextlib
import hashlib
import http.server
import io
import random
import re
import ssl
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trustme

from segc.architectures.published import BY_ADDRESS, PUBLISHED, Published
from segc.diagnostics import Diagnostic, SegcError
from segc.spec.weights import WeightsReference, parse_reference
from segc.weights import fetching
from segc.weights.fetching import Expected, fetch

Archive = Callable[..., Path]
DATA = random.Random(0).randbytes(300_007)
DIGEST = hashlib.sha256(DATA).hexdigest()


def archive_bytes(pickled: bytes, storages: Mapping[str, bytes] | None = None, **more: bytes) -> bytes:
    """A zip as torch.save lays it out."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("it/data.pkl", pickled)
        archive.writestr("it/byteorder", "little")
        for key, data in (storages or {}).items():
            archive.writestr(f"it/data/{key}", data)
        archive.writestr("it/version", "3\n")
        for name, data in more.items():
            archive.writestr(f"it/{name}", data)
    return buffer.getvalue()


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    """Write ``archive_bytes(…)`` to a file."""

    def write(pickled: bytes, storages: Mapping[str, bytes] | None = None, **more: bytes) -> Path:
        path = tmp_path / "made.pt"
        path.write_bytes(archive_bytes(pickled, storages, **more))
        return path

    return write


@dataclass
class Site:
    """What a server has, and how it gives it.

    Attributes:
        address: its address.
        files: bytes by path.
        cuts: for a path, where its next answers break off: bytes of the file that are there by then.
        tags: tags of the files, by path; without one a file has none.
        special: what answers at a path in place of all that.
        asked: path and ``Range`` of every request.
    """

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    cuts: dict[str, list[int]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    special: dict[str, Callable[[http.server.BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    def put(self, path: str, data: bytes, tag: str | None = '"1"') -> str:
        """Have a file; gives its address."""
        self.files[path] = data
        self.tags.pop(path, None)
        if tag:
            self.tags[path] = tag
        return self.address + path

    def answer(self, path: str, special: Callable[[http.server.BaseHTTPRequestHandler], None]) -> str:
        """Answer at a path in a way of its own; gives its address."""
        self.special[path] = special
        return self.address + path


def _serve(site: Site, request: http.server.BaseHTTPRequestHandler) -> None:
    path = request.path.partition("?")[0]
    data, tag = site.files.get(path), site.tags.get(path)
    if data is None:
        request.send_error(404)
        return
    wanted = re.fullmatch(r"bytes=(\d+)-", request.headers.get("Range", ""))
    same = request.headers.get("If-Range") in {None, tag}
    start = int(wanted[1]) if wanted and same else 0
    if start >= len(data) and start:
        request.send_response(416)
        request.send_header("Content-Range", f"bytes */{len(data)}")
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    request.send_response(206 if start else 200)
    if start:
        request.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
    if tag:
        request.send_header("ETag", tag)
    request.send_header("Content-Length", str(len(data) - start))
    request.end_headers()
    cuts = site.cuts.get(path)
    request.wfile.write(data[start : cuts.pop(0) if cuts else None])


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[trustme.CA, Path]:
    """A certificate authority of the tests, and the file with its certificate."""
    made = trustme.CA()
    path = tmp_path_factory.mktemp("certificates") / "authority.pem"
    made.cert_pem.write_to_path(str(path))
    return made, path


@pytest.fixture(scope="session")
def _server(authority: tuple[trustme.CA, Path]) -> Iterator[tuple[str, list[Site]]]:
    current: list[Site] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            (site,) = current
            site.asked.append((self.path, self.headers.get("Range")))
            site.special.get(self.path.partition("?")[0], lambda request: _serve(site, request))(self)

        def handle(self) -> None:
            with contextlib.suppress(OSError):  # the client went away, as some tests have it do
                super().handle()

        def log_message(self, *_: Any) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def finish_request(self, request: Any, client_address: Any) -> None:
            # In the request's own thread: a client that speaks no TLS holds nobody up.
            with contextlib.suppress(OSError), context.wrap_socket(request, server_side=True) as secured:
                super().finish_request(secured, client_address)  # type: ignore[arg-type]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority[0].issue_cert("localhost", "127.0.0.1").configure_cert(context)
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    yield f"https://localhost:{server.server_port}", current
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def site(
    _server: tuple[str, list[Site]],
    authority: tuple[trustme.CA, Path],
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """An https server on this machine whose certificate is accepted, and an empty cache."""
    assert not cache.exists()
    address, current = _server
    made = Site(address)
    current[:] = [made]
    monkeypatch.setenv("SSL_CERT_FILE", str(authority[1]))
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")
    monkeypatch.setattr(fetching, "_PAUSE", 0.0)
    yield made
    current.clear()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and none of the user's own settings."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("SEGC_CACHE", str(folder))
    for name in ("SEGC_OFFLINE", "SEGC_WEIGHTS_URL"):
        monkeypatch.delenv(name, raising=False)
    return folder


def quietly(reference: WeightsReference, *expected: Expected, **options: Any) -> Path:
    return fetch(reference, expected, say=lambda _: None, **options)


def refused(reference: WeightsReference, *expected: Expected, **options: Any) -> Diagnostic:
    with pytest.raises(SegcError) as caught:
        quietly(reference, *expected, **options)
    (diagnostic,) = caught.value.diagnostics
    return diagnostic


def kept(cache: Path) -> list[str]:
    """Names of the files in the cache, locks left out."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock")


def row(address: str, **more: Any) -> Published:
    facts: dict[str, Any] = {
        "name": "toy-seg",
        "address": address,
        "family": "yolov8-seg",
        "scale": "n",
        "classes": 80,
        "data": "toys",
        "side": 640,
        "licence": "Apache-2.0",
        "box_ap": 1.0,
        "mask_ap": 1.0,
        "source": "https://example.org",
        **more,
    }
    return Published(**facts)


@pytest.fixture
def publish(monkeypatch: pytest.MonkeyPatch) -> Callable[..., WeightsReference]:
    """Have a row in the table; gives what its name refers to."""

    def published(address: str, **more: Any) -> WeightsReference:
        made = row(address, **more)
        monkeypatch.setitem(PUBLISHED, made.name, made)
        monkeypatch.setitem(BY_ADDRESS, address, made)
        return parse_reference(made.name)

    return published


def body(pieces: Callable[[], Any], **headers: str) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """An answer whose body comes in these pieces, each sent at once."""

    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        for name, value in headers.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        for piece in pieces():
            request.wfile.write(piece)
            request.wfile.flush()

    return answer
