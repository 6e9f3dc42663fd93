"""Downloads against a server on this machine: whole and checked, or one error and nothing half-written."""

import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from segc.diagnostics import SegcError
from segc.spec.weights import WeightsReference, parse_reference
from segc.weights import cache as cache_module
from segc.weights import fetching, web
from segc.weights.fetching import Expected, cached, entry_of, fetch

from .conftest import DATA, DIGEST, Site, body, kept, quietly, refused

# -- what works


def test_the_first_use_fetches_and_the_second_reads_the_cache(site: Site, cache: Path) -> None:
    reference = parse_reference(site.put("/a/file.pt", DATA))
    said: list[str] = []
    path = fetch(reference, say=said.append)
    assert path.read_bytes() == DATA
    assert path.name == "file.pt"
    assert said == [
        f"fetching {reference.text}",
        f"fetched {reference.text}: 0.3 MB, sha256:{DIGEST}",
    ]
    assert quietly(reference) == path
    assert len(site.asked) == 1
    assert kept(cache) == ["file.pt", "origin.json"]


def test_progress_is_told_in_bytes(site: Site) -> None:
    seen: list[tuple[int, int | None]] = []
    quietly(parse_reference(site.put("/f.pt", DATA)), watch=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (len(DATA), len(DATA))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_redirects_to_https_are_followed(site: Site) -> None:
    site.put("/there.pt", DATA)
    site.answer("/2", _redirect("/there.pt"))
    assert quietly(parse_reference(site.answer("/1", _redirect(f"{site.address}/2")))).read_bytes() == DATA


def test_a_query_is_sent_and_never_shown(site: Site) -> None:
    site.put("/f.pt", DATA)
    reference = parse_reference(f"{site.address}/f.pt?key=hidden#part")
    path = quietly(reference)
    assert site.asked == [("/f.pt?key=hidden", None)]
    assert "hidden" not in reference.shown
    assert path.name == "f.pt"


def test_names_from_the_web_are_made_safe(site: Site, cache: Path) -> None:
    site.put("/x/%2e%2e%2fetc%2fpasswd", DATA)
    path = quietly(parse_reference(f"{site.address}/x/%2e%2e%2fetc%2fpasswd"))
    assert path.parent.parent == cache / "weights"


# -- cut and resumed


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_download_cut_at_any_tenth_goes_on_in_the_same_call(site: Site, tenth: int) -> None:
    cut = len(DATA) * tenth // 10
    reference = parse_reference(site.put("/f.pt", DATA))
    site.cuts["/f.pt"] = [cut]
    assert quietly(reference).read_bytes() == DATA
    assert site.asked == [("/f.pt", None), ("/f.pt", f"bytes={cut}-")]


def test_a_download_cut_at_every_tenth_comes_to_its_end(site: Site) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    site.cuts["/f.pt"] = [len(DATA) * tenth // 10 for tenth in range(1, 10)]
    assert quietly(reference).read_bytes() == DATA
    assert len(site.asked) == 10


class Killed(BaseException):
    """Ends a download as a signal would."""


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_download_that_was_killed_at_any_tenth_goes_on_in_the_next_call(
    site: Site, cache: Path, tenth: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "_PIECE", 10_000)
    reference = parse_reference(site.put("/f.pt", DATA))

    def watch(done: int, total: int | None) -> None:
        if done * 10 >= (total or 0) * tenth:
            raise Killed

    with pytest.raises(Killed):
        quietly(reference, watch=watch)
    assert kept(cache) == ["f.pt.part", "part.json"]
    assert cached(reference) is None
    begun = entry_of(reference).part.stat().st_size
    assert quietly(reference).read_bytes() == DATA
    assert begun >= len(DATA) * tenth // 10 - 10_000
    assert site.asked[1] == ("/f.pt", f"bytes={begun}-")
    assert kept(cache) == ["f.pt", "origin.json"]


def test_a_file_that_changed_meanwhile_is_fetched_from_the_beginning(site: Site) -> None:
    reference = parse_reference(site.put("/f.pt", b"old" * 1000))
    site.cuts["/f.pt"] = [1500, 1500, 1500, 1500]
    assert refused(reference).code == "N008"
    site.cuts.clear()
    site.put("/f.pt", DATA, '"2"')
    said: list[str] = []
    assert fetch(reference, say=said.append).read_bytes() == DATA
    assert any("from the beginning" in line for line in said)


def test_without_a_tag_or_a_digest_nothing_is_resumed(site: Site) -> None:
    reference = parse_reference(site.put("/f.pt", DATA, tag=None))
    site.cuts["/f.pt"] = [1000]
    assert quietly(reference).read_bytes() == DATA
    assert site.asked == [("/f.pt", None)] * 2


def test_with_a_digest_alone_it_is_resumed_and_a_mixture_is_fetched_again(site: Site) -> None:
    reference = parse_reference(site.put("/f.pt", DATA, tag=None), DIGEST)
    site.cuts["/f.pt"] = [1000]
    assert quietly(reference).read_bytes() == DATA
    assert site.asked[1] == ("/f.pt", "bytes=1000-")
    entry_of(reference).remove()
    site.put("/f.pt", bytes(len(DATA)), tag=None)
    site.cuts["/f.pt"] = [1000, 1000, 1000, 1000]
    assert refused(reference).code == "N008"
    site.put("/f.pt", DATA, tag=None)
    site.cuts.clear()
    assert quietly(reference).read_bytes() == DATA


def test_a_part_that_is_whole_already_needs_no_byte_more(site: Site) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    with pytest.raises(Killed):
        quietly(reference, watch=lambda done, total: (_ for _ in ()).throw(Killed) if done == total else None)
    assert quietly(reference).read_bytes() == DATA
    assert site.asked[1] == ("/f.pt", f"bytes={len(DATA)}-")


# -- digests


def test_a_wrong_digest_leaves_nothing_and_nothing_is_read(
    site: Site, cache: Path, publish: Callable[..., WeightsReference]
) -> None:
    address = site.put("/f.pt", DATA)
    stated = refused(parse_reference(address, "0" * 64))
    assert stated.code == "N003"
    assert DIGEST in stated.message
    assert "nothing of it was read" in stated.message
    assert kept(cache) == []
    fixed = refused(parse_reference(address), Expected("1" * 64, "project.lock.json", "write {sha256}"))
    assert "project.lock.json says " + "1" * 64 in fixed.message
    assert fixed.help == f"write {DIGEST}"
    published = refused(publish(address, sha256="0badc0de"))
    assert "the published digest says one that begins with 0badc0de" in published.message
    assert kept(cache) == []


def test_a_published_beginning_of_the_digest_is_checked(site: Site, publish: Callable[..., WeightsReference]) -> None:
    address = site.put(f"/toy_20260101-{DIGEST[:8]}.pth", DATA)
    assert quietly(publish(address, sha256=DIGEST[:8])).read_bytes() == DATA


def test_a_published_size_is_checked(site: Site, cache: Path, publish: Callable[..., WeightsReference]) -> None:
    address = site.put("/f.pt", DATA)
    assert refused(publish(address, size=len(DATA) - 1)).code == "N006"
    assert refused(publish(address, size=len(DATA) + 1)).code == "N003"
    assert kept(cache) == []


def test_a_cached_file_that_was_damaged_is_fetched_again(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    path = quietly(reference)
    path.write_bytes(b"x" + DATA[1:])
    monkeypatch.setenv("SEGC_OFFLINE", "1")
    said: list[str] = []
    with pytest.raises(SegcError, match="N009"):
        fetch(reference, say=said.append)
    assert "damaged" in said[0]
    monkeypatch.delenv("SEGC_OFFLINE")
    assert quietly(reference).read_bytes() == DATA


def test_a_file_without_its_record_counts_for_nothing(site: Site) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    path = quietly(reference)
    (path.parent / cache_module.ORIGIN).unlink()
    assert cached(reference) is None
    assert quietly(reference).read_bytes() == DATA
    assert len(site.asked) == 2


# -- servers that are broken, slow or hostile


def _redirect(target: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", target)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return answer


def _endless(piece: bytes, pause: float = 0.0) -> Callable[[], Any]:
    def pieces() -> Any:
        end = time.monotonic() + 20
        while time.monotonic() < end:
            time.sleep(pause)
            yield piece

    return pieces


CHUNK = b"10000\r\n" + bytes(0x10000) + b"\r\n"


def test_an_endless_body_is_cut_off_and_dropped(site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_FILE_BYTES", 1_000_000)
    address = site.answer("/f.pt", body(_endless(CHUNK), Transfer_Encoding="chunked"))
    told = refused(parse_reference(address))
    assert told.code == "N006"
    assert address in told.message
    assert kept(cache) == []
    promised = site.answer("/g.pt", body(list, Content_Length=str(1 << 50)))
    assert refused(parse_reference(promised)).code == "N006"
    assert kept(cache) == []


def test_a_body_that_drips_ends_with_the_time_limit_and_is_kept(site: Site, cache: Path) -> None:
    drip = body(_endless(b"x", 0.02), Content_Length="100000", ETag='"1"')
    reference = parse_reference(site.answer("/f.pt", drip))
    started = time.monotonic()
    told = refused(reference, seconds=0.5)
    assert time.monotonic() - started < 5
    assert told.code == "N005"
    assert "the next try goes on from there" in told.message
    assert kept(cache) == ["f.pt.part", "part.json"]


def test_a_body_that_hardly_comes_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "_WINDOW", 0.2)
    reference = parse_reference(site.answer("/f.pt", body(_endless(b"x", 0.02), Content_Length="100000")))
    told = refused(reference)
    assert told.code == "N005"
    assert "hardly sends" in told.message


def test_a_head_that_drips_ends_with_its_time_limit(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "HEAD", 0.4)

    def answer(request: BaseHTTPRequestHandler) -> None:
        for byte in b"HTTP/1.1 200 OK\r\n" + b"X-Long: " + b"y" * 1000:
            request.wfile.write(bytes([byte]))
            request.wfile.flush()
            time.sleep(0.02)

    started = time.monotonic()
    told = refused(parse_reference(site.answer("/f.pt", answer)))
    assert time.monotonic() - started < 5
    assert (told.code, "did not answer" in told.message) == ("N005", True)


def test_a_silent_server_is_given_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "SILENCE", 0.2)
    told = refused(parse_reference(site.answer("/f.pt", lambda _: time.sleep(1))))
    assert told.code == "N008"
    assert "silent" in told.message


def test_a_circle_of_redirects_ends(site: Site) -> None:
    reference = parse_reference(site.answer("/f.pt", _redirect("/f.pt")))
    told = refused(reference)
    assert told.code == "N007"
    assert len(site.asked) == web.MOST_REDIRECTS + 1


@pytest.mark.parametrize(
    "target",
    [
        "file:///etc/hostname",
        "http://localhost/f.pt",
        "ftp://localhost/f",
        "data:,x",
        "https://u:p@localhost/f",
        "https://",
        "https://[/",
    ],
)
def test_redirects_elsewhere_than_to_https_are_not_followed(site: Site, cache: Path, target: str) -> None:
    told = refused(parse_reference(site.answer("/f.pt", _redirect(target))))
    assert told.code == "N007"
    assert target in told.message
    assert kept(cache) == []


def test_the_body_of_a_redirect_is_not_read(site: Site) -> None:
    site.put("/there.pt", DATA)

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", "/there.pt")
        request.end_headers()
        for piece in _endless(bytes(1 << 16))():
            request.wfile.write(piece)

    assert quietly(parse_reference(site.answer("/f.pt", answer))).read_bytes() == DATA


def test_what_a_server_says_instead_is_named_with_the_address_and_the_way_by_hand(site: Site) -> None:
    address = f"{site.address}/missing.pt"
    told = refused(parse_reference(address))
    assert told.code == "N002"
    assert f"{address}: the server answered 404 Not Found" in told.message
    assert f"download {address} by hand and name the file" in (told.help or "")
    assert len(site.asked) == 1


def test_a_server_that_is_busy_is_asked_again(site: Site) -> None:
    site.put("/f.pt", DATA)

    def answer(request: BaseHTTPRequestHandler) -> None:
        del site.special["/f.pt"]
        request.send_error(503)

    assert quietly(parse_reference(site.answer("/f.pt", answer))).read_bytes() == DATA
    site.answer("/g.pt", lambda request: request.send_error(503))
    assert refused(parse_reference(f"{site.address}/g.pt")).code == "N002"
    assert [path for path, _ in site.asked].count("/g.pt") == 3


def test_a_packed_body_or_one_without_an_end_is_refused(site: Site) -> None:
    packed = site.answer("/f.pt", body(lambda: [b"x"], Content_Encoding="gzip", Content_Length="1"))
    assert refused(parse_reference(packed)).code == "N002"
    endless = site.answer("/g.pt", body(lambda: [DATA]))
    assert "how long" in refused(parse_reference(endless)).message
    assert quietly(parse_reference(endless, DIGEST)).read_bytes() == DATA


def test_another_part_than_was_asked_for_is_not_taken(site: Site) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    site.cuts["/f.pt"] = [1000, 1000, 1000, 1000]
    assert refused(reference).code == "N008"

    def answer(request: BaseHTTPRequestHandler) -> None:
        del site.special["/f.pt"]
        request.send_response(206)
        request.send_header("Content-Range", f"bytes 0-999/{len(DATA)}")
        request.send_header("Content-Length", "1000")
        request.end_headers()

    site.cuts.clear()
    site.answer("/f.pt", answer)
    assert quietly(reference).read_bytes() == DATA


def test_a_certificate_that_nobody_vouches_for_is_not_accepted(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    monkeypatch.delenv("SSL_CERT_FILE")
    told = refused(reference)
    assert told.code == "N004"
    assert "SSL_CERT_FILE" in (told.help or "")
    assert site.asked == []


def test_no_network_is_told(cache: Path) -> None:
    import socket

    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        told = refused(parse_reference(f"https://127.0.0.1:{closed.getsockname()[1]}/f.pt"))
    assert told.code == "N001"
    assert "by hand" in (told.help or "")
    assert kept(cache) == []


def test_a_proxy_of_the_system_is_used(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    reference = parse_reference(site.put("/f.pt", DATA))
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed.getsockname()[1]}")
        assert refused(reference).code == "N001"
    assert site.asked == []


def test_a_proxy_carries_the_bytes(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    asked: list[bytes] = []

    def carry(source: socket.socket, sink: socket.socket) -> None:
        while data := source.recv(1 << 16):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)

    def proxy() -> None:
        client, _ = listener.accept()
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += client.recv(1)
        asked.append(head)
        host, _, port = head.split()[1].decode().partition(":")
        with client, socket.create_connection((host, int(port))) as server:
            client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            up = threading.Thread(target=carry, args=(client, server))
            up.start()
            carry(server, client)
            up.join()

    reference = parse_reference(site.put("/f.pt", DATA))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=proxy)
        thread.start()
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name)
        monkeypatch.setenv("https_proxy", f"http://user:word@127.0.0.1:{listener.getsockname()[1]}")
        assert quietly(reference).read_bytes() == DATA
        thread.join()
    assert asked[0].startswith(b"CONNECT localhost:")
    assert b"Proxy-Authorization: Basic" in asked[0]
