"""Where a download comes from and goes to: the cache when offline, mirrors, a disk that is full, other processes."""

import errno
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer, SimpleHTTPRequestHandler
from pathlib import Path

import pytest

from segc.diagnostics import SegcError
from segc.spec.weights import WeightsReference, parse_reference
from segc.weights import fetching
from segc.weights.fetching import entry_of, fetch

from .conftest import DATA, DIGEST, Site, body, kept, quietly, refused


def test_offline_only_the_cache_serves(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    monkeypatch.setenv("SEGC_OFFLINE", "1")
    told = refused(reference)
    assert told.code == "N009"
    assert "SEGC_OFFLINE" in (told.help or "")
    assert site.asked == []
    monkeypatch.setenv("SEGC_OFFLINE", "0")
    path = quietly(reference)
    monkeypatch.setenv("SEGC_OFFLINE", "1")
    assert quietly(reference) == path


def test_a_mirror_serves_published_files_and_no_others(
    site: Site, publish: Callable[..., WeightsReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = publish("https://nowhere.invalid/releases/toy-seg.pt")
    site.put("/mirror/toy-seg.pt", DATA)
    monkeypatch.setenv("SEGC_WEIGHTS_URL", f"{site.address}/mirror/")
    assert quietly(reference).read_bytes() == DATA
    other = parse_reference(site.put("/f.pt", DATA))
    quietly(other)
    assert [path for path, _ in site.asked] == ["/mirror/toy-seg.pt", "/f.pt"]
    monkeypatch.delenv("SEGC_WEIGHTS_URL")
    assert quietly(reference).read_bytes() == DATA  # whoever fetched it, it is the same entry


@pytest.mark.usefixtures("cache")
def test_a_mirror_may_be_without_certificates(
    tmp_path: Path, publish: Callable[..., WeightsReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy-seg.pt").write_bytes(DATA)
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.handle_request).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setenv("SEGC_WEIGHTS_URL", f"http://127.0.0.1:{server.server_port}")
        assert quietly(publish("https://nowhere.invalid/toy-seg.pt")).read_bytes() == DATA


def test_what_a_mirror_has_not_is_not_looked_for_elsewhere(
    site: Site, publish: Callable[..., WeightsReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = publish(site.put("/toy-seg.pt", DATA))
    monkeypatch.setenv("SEGC_WEIGHTS_URL", f"{site.address}/mirror")
    told = refused(reference)
    assert (told.code, [path for path, _ in site.asked]) == ("N002", ["/mirror/toy-seg.pt"])


def test_a_folder_is_a_mirror_too_and_is_checked(
    cache: Path, tmp_path: Path, publish: Callable[..., WeightsReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a mirror"
    folder.mkdir()
    monkeypatch.setenv("SEGC_WEIGHTS_URL", folder.as_uri())
    monkeypatch.setenv("SEGC_OFFLINE", "1")
    reference = publish("https://nowhere.invalid/toy-seg.pt", sha256=DIGEST)
    assert refused(reference).code == "N002"
    (folder / "toy-seg.pt").write_bytes(DATA[1:])
    assert refused(reference).code == "N003"
    (folder / "toy-seg.pt").write_bytes(DATA)
    path = quietly(reference)
    assert path.is_relative_to(cache)
    assert path.read_bytes() == DATA


def test_a_mirror_that_is_no_address_is_refused(
    publish: Callable[..., WeightsReference], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEGC_WEIGHTS_URL", "mirror.example")
    assert refused(publish("https://nowhere.invalid/toy-seg.pt")).code == "X207"


def test_a_disk_without_room_is_told_before_a_byte_is_written(
    site: Site, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    usage = type("Usage", (), {"free": 1000})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: usage)
    told = refused(reference)
    assert told.code == "F003"
    assert reference.text in told.message
    assert "SEGC_CACHE" in (told.help or "")
    assert kept(cache) == []


def test_a_disk_that_fills_up_leaves_nothing(site: Site, cache: Path) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))

    def watch(_done: int, _total: int | None) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    told = refused(reference, watch=watch)
    assert told.code == "F003"
    assert "No space left" in told.message
    assert kept(cache) == []
    assert quietly(reference).read_bytes() == DATA


def test_a_cache_that_cannot_be_written_is_told(site: Site, cache: Path) -> None:
    cache.write_bytes(b"a file in the way")
    told = refused(parse_reference(site.put("/f.pt", DATA)))
    assert told.code == "F003"


def test_two_processes_fetch_once(site: Site) -> None:
    together = threading.Barrier(2)
    begun = threading.Event()

    def answer(request: BaseHTTPRequestHandler) -> None:
        begun.set()
        del site.special["/f.pt"]
        time.sleep(1.5)  # long enough for the other one to come
        body(lambda: [DATA], Content_Length=str(len(DATA)))(request)

    address = site.answer("/f.pt", answer)
    done: list[subprocess.CompletedProcess[str]] = []

    def run() -> None:
        together.wait()
        command = [sys.executable, "-m", "segc", "weights", "fetch", address]
        done.append(subprocess.run(command, capture_output=True, text=True, check=False))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [one.returncode for one in done] == [0, 0], done
    assert len({one.stdout for one in done}) == 1
    assert len(site.asked) == 1


def test_waiting_for_another_process_is_bounded(site: Site) -> None:
    reference = parse_reference(site.put("/f.pt", DATA))
    said: list[str] = []
    with entry_of(reference).lock(0), pytest.raises(SegcError) as caught:
        fetch(reference, seconds=0.2, say=said.append)
    assert caught.value.diagnostics[0].code == "N005"
    assert "waiting for another process" in said[0]
    assert site.asked == []
