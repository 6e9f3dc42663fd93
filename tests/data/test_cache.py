"""Caches of decoded images: what goes in comes out, within the bounds."""

import errno
import os
import pickle
import time
from pathlib import Path

import numpy as np
import pytest

from segc.data import cache as caches
from segc.data.cache import DiskCache, MemoryCache


def picture(seed: int, height: int = 4, width: int = 6):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8), (40 + seed, 60)


def same(one, other) -> bool:
    return np.array_equal(one[0], other[0]) and one[1] == other[1]


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    made = [tmp_path / f"{index}.png" for index in range(4)]
    for path in made:
        path.write_bytes(path.name.encode())
    return made


def disk(paths, folder: Path, budget: int = 10_000, size=(8, 8)) -> DiskCache:
    return DiskCache([(path, None) for path in paths], size, budget, folder / "cache")


def test_pictures_of_different_sizes_come_back_from_memory():
    cache = MemoryCache(4, 8 * 8 * 3, 10_000)
    for index in (2, 0):
        cache.put(index, picture(index, 4 + index))
    for index in (2, 0):
        assert same(cache.get(index) or pytest.fail("nothing was kept"), picture(index, 4 + index))
    assert cache.get(1) is None
    assert cache.notice() is None


def test_memory_is_not_exceeded_and_that_is_told():
    cache = MemoryCache(4, 100, 4 * 6 * 3 * 2 + 5)
    for index in range(4):
        cache.put(index, picture(index))
    assert [cache.get(index) is not None for index in range(4)] == [True, True, False, False]
    assert "2 of 4 images" in (cache.notice() or "")
    assert same(cache.get(1) or pytest.fail("nothing was kept"), picture(1))


def test_a_picture_is_kept_once():
    cache = MemoryCache(2, 72, 1000)
    for _ in range(5):
        cache.put(0, picture(0))
    cache.put(1, picture(1))
    assert same(cache.get(1) or pytest.fail("nothing was kept"), picture(1))


def test_a_memory_cache_passes_to_a_spawned_process_empty():
    cache = MemoryCache(2, 72, 1000)
    cache.put(1, picture(1))
    state = pickle.loads(pickle.dumps({**cache.__getstate__(), "_lock": None}))
    other = MemoryCache.__new__(MemoryCache)
    other.__setstate__({**state, "_lock": cache._lock})
    assert other.get(1) is None
    other.put(1, picture(1))
    assert other.get(1) is not None


def test_pictures_on_disk_serve_other_trainings(tmp_path, paths):
    disk(paths, tmp_path).put(1, picture(1))
    other = disk(paths, tmp_path)
    assert same(other.get(1) or pytest.fail("nothing was kept"), picture(1))
    assert other.get(0) is None
    assert disk(paths, tmp_path, size=(8, 16)).get(1) is None


def test_a_changed_image_is_not_taken_for_the_old_one(tmp_path, paths):
    cache = disk(paths, tmp_path)
    cache.put(1, picture(1))
    paths[1].write_bytes(b"another image")
    assert cache.get(1) is None


@pytest.mark.parametrize("damage", [b"", b"short", None])
def test_a_damaged_file_counts_as_none(tmp_path, paths, damage):
    cache = disk(paths, tmp_path)
    cache.put(1, picture(1))
    (file,) = (tmp_path / "cache").iterdir()
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]) if damage is None else damage)
    assert cache.get(1) is None


def test_the_folder_stays_within_its_bound_and_that_is_told(tmp_path, paths):
    cache = disk(paths, tmp_path, budget=250)
    for index in range(4):
        cache.put(index, picture(index))
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert "raise hyperparameters.cache_gib" in (cache.notice() or "")


def test_a_full_disk_ends_the_keeping_with_a_notice(tmp_path, paths, monkeypatch):
    cache = disk(paths, tmp_path)
    cache.put(0, picture(0))

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(caches, "_write", full)
    cache.put(1, picture(1))
    assert "No space left on device" in (cache.notice() or "")
    assert cache.get(0) is not None
    assert cache.get(1) is None


def test_nothing_is_left_of_a_file_that_could_not_be_written(tmp_path):
    def parts():
        yield b"begun"
        raise OSError("no way")

    with pytest.raises(OSError, match="no way"):
        caches._write(tmp_path / "a.rgb", parts())
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_told(tmp_path, paths):
    (tmp_path / "cache").write_text("a file")
    cache = disk(paths, tmp_path)
    cache.put(0, picture(0))
    assert cache.get(0) is None
    assert "File exists" in (cache.notice() or "")


def test_what_others_left_gives_way_oldest_first(tmp_path, paths):
    folder = tmp_path / "cache"
    folder.mkdir()
    now = time.time()
    for age, name in enumerate(["new.rgb", "old.rgb", ".a.partial", ".b.partial"]):
        (folder / name).write_bytes(bytes(100))
        os.utime(folder / name, (now - 3000 * age, now - 3000 * age))
    (folder / "note.txt").write_text("not ours")
    disk(paths[:1], tmp_path, budget=192 + 100 + 8)
    assert sorted(path.name for path in folder.iterdir()) == ["new.rgb", "note.txt"]
    disk(paths[:1], tmp_path, budget=192)
    assert [path.name for path in folder.iterdir()] == ["note.txt"]


def test_parts_of_a_file_are_kept_beside_each_other_and_the_whole(paths, tmp_path):
    regions = (None, (0, 0, 4, 4), (2, 0, 6, 4))
    cache = DiskCache([(paths[0], region) for region in regions], (8, 8), 10_000, tmp_path / "cache")
    for index in range(3):
        assert cache.wants(index)
        cache.put(index, picture(index))
        assert not cache.wants(index)
    for index in range(3):
        assert same(cache.get(index) or pytest.fail("nothing was kept"), picture(index))


def test_what_is_kept_already_or_has_no_room_is_not_wanted(paths, tmp_path):
    for cache in (MemoryCache(4, 100, 4 * 6 * 3 * 2 + 5), disk(paths, tmp_path, budget=220)):
        assert cache.wants(0)
        cache.put(0, picture(0))
        assert [cache.wants(index) for index in (0, 1)] == [False, True]
        for index in (1, 2, 3):
            cache.put(index, picture(index))
        assert not cache.wants(3)
