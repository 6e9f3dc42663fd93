"""Training batches: what is in them, and that they depend on seed, epoch and place alone."""

import multiprocessing
import os
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segc.data.batch import TrainingItem
from segc.data.labels import parse_labels
from segc.data.loader import TrainingLoader, TrainingSet, epoch_order, step_size
from segc.data.samples import Sample, read_sample, read_samples
from segc.data.workers import Starvation
from segc.diagnostics import MOST_EXAMPLES, SegcError
from segc.spec.hyperparameters import Augment, Hyperparameters

SIZE = 64

STILL = {"mosaic": 0, "translate": 0, "scale": 0, "hsv_h": 0, "hsv_s": 0, "hsv_v": 0}
FLIPS = Augment(**STILL, fliplr=0.5)
EVERYTHING = Augment(
    mosaic=0.7, close_mosaic=0, degrees=20, shear=5, perspective=0.0005, flipud=0.5, mixup=0.5, copy_paste=0.5
)


def hyper(**changes) -> Hyperparameters:
    values = {"imgsz": SIZE, "batch": 4, "workers": 0, "augment": FLIPS, **changes}
    return Hyperparameters(**values)


@pytest.fixture
def samples(tmp_path) -> tuple[Sample, ...]:
    """Ten images of different shapes; the third is background, the others have one to three boxes."""
    generator = np.random.default_rng(0)
    made = []
    for index in range(10):
        height, width = generator.integers(40, 90, 2)
        path = tmp_path / f"{index}.png"
        cv2.imwrite(str(path), generator.integers(0, 255, (height, width, 3), np.uint8))
        rows = "\n".join(f"{n} 0.5 0.5 {0.2 + 0.3 * n} 0.5" for n in range(0 if index == 2 else 1 + index % 3))
        made.append(Sample(path, None, parse_labels(rows, path, 3)[0]))
    return tuple(made)


def epochs(loader: TrainingLoader, *numbers: int):
    return [batch for number in numbers for batch in loader.epoch(number)]


def equal(a, b) -> bool:
    return all(
        torch.equal(getattr(x, f), getattr(y, f))
        for x, y in zip(a, b, strict=True)
        for f in ("images", "image_index", "classes", "boxes", "masks")
    )


def test_a_batch_has_the_shapes_that_are_promised(samples):
    loader = TrainingLoader(samples, hyper())
    batches = epochs(loader, 0)
    assert [len(b.images) for b in batches] == [4, 4, 2]
    assert len(loader) == 3
    for batch in batches:
        count = len(batch.classes)
        assert batch.images.shape[1:] == (3, SIZE, SIZE)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert (batch.boxes.shape, batch.boxes.dtype) == ((count, 4), torch.float32)
        assert (batch.masks.shape, batch.masks.dtype) == ((len(batch.images), 16, 16), torch.int32)
        assert batch.image_index.tolist() == sorted(batch.image_index.tolist())
    assert sum(len(b.classes) for b in batches) == sum(len(s.instances) for s in samples)


def test_masks_may_be_one_an_object(samples):
    for batch in epochs(TrainingLoader(samples, hyper(overlap_mask=False, mask_ratio=2)), 0):
        assert (batch.masks.shape, batch.masks.dtype) == ((len(batch.classes), 32, 32), torch.uint8)
        assert set(batch.masks.unique().tolist()) <= {0, 1}


def test_every_image_comes_once_an_epoch_in_an_order_of_its_own():
    first, second, other = epoch_order(50, 0, 0), epoch_order(50, 0, 1), epoch_order(50, 1, 0)
    for order in (first, second, other):
        assert sorted(order.tolist()) == list(range(50))
    assert len({tuple(order.tolist()) for order in (first, second, other)}) == 3


@pytest.mark.parametrize("augment", [FLIPS, EVERYTHING])
def test_workers_and_the_past_change_nothing(samples, augment):
    alone = epochs(TrainingLoader(samples, hyper(augment=augment)), 0, 1, 2)
    helped = epochs(TrainingLoader(samples, hyper(augment=augment, workers=2)), 0, 1, 2)
    resumed = epochs(TrainingLoader(samples, hyper(augment=augment, workers=1)), 2)
    assert equal(alone, helped)
    assert equal(alone[-3:], resumed)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_can_be_entered_at_any_step(samples, workers):
    loader = TrainingLoader(samples, hyper(workers=workers))
    whole = epochs(loader, 1)
    for step in range(4):
        assert equal(list(loader.epoch(1, start_step=step)), whole[step:])
    assert equal(epochs(loader, 1), whole)


@pytest.mark.parametrize("workers", [0, 1])
def test_epochs_come_out_the_same_in_any_order(samples, workers):
    loader = TrainingLoader(samples, hyper(workers=workers))
    known = {number: epochs(TrainingLoader(samples, hyper()), number) for number in range(6)}
    for number in (0, 1, 4, 5, 2, 3, 3, 0):
        next(iter(loader.epoch(number)))  # left after its first batch
        assert equal(list(loader.epoch(number, start_step=1)), known[number][1:])
        assert list(loader.epoch(number, start_step=len(loader))) == []
        assert equal(epochs(loader, number), known[number])


def test_an_epoch_that_failed_can_be_entered_again(samples):
    whole = epochs(TrainingLoader(samples, hyper(batch=2)), 0)
    good = samples[3].image.read_bytes()
    loader = TrainingLoader(samples, hyper(batch=2))
    samples[3].image.write_bytes(b"broken")
    with pytest.raises(SegcError):
        epochs(loader, 0)
    samples[3].image.write_bytes(good)
    assert equal(epochs(loader, 0), whole)


@pytest.fixture
def pinned(monkeypatch) -> list[int]:
    """Memory from which a GPU copies fast, as it is where there is none; the sizes of what was put there."""
    sizes: list[int] = []

    def pin_memory(tensor):
        sizes.append(tensor.numel())
        return tensor.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    return sizes


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_that_are_fetched_ahead_are_the_same_and_copied_once(samples, workers, pinned):
    plain = epochs(TrainingLoader(samples, hyper(batch=2)), 0, 1)
    loader = TrainingLoader(samples, hyper(batch=2, workers=workers), pin_memory=True)
    loader.prefetch()  # before the first one there is no next one
    assert pinned == []
    found = []
    for number in (0, 1):
        for batch in loader.epoch(number):
            found.append(batch)
            loader.prefetch()
            loader.prefetch()
    assert equal(found, plain)
    assert len(pinned) == 5 * (len(plain) + 1)
    assert equal(list(loader.epoch(1, start_step=2)), plain[7:])
    loader.close()


@pytest.mark.usefixtures("pinned")
@pytest.mark.parametrize("workers", [0, 1])
def test_what_is_wrong_with_a_batch_that_was_fetched_ahead_is_told_when_it_is_asked_for(samples, workers):
    whole = epochs(TrainingLoader(samples, hyper(batch=5)), 0)
    broken = samples[int(epoch_order(len(samples), 0, 0)[7])].image
    good = broken.read_bytes()
    broken.write_bytes(b"broken")
    loader = TrainingLoader(samples, hyper(batch=5, workers=workers), pin_memory=True)
    batches = loader.epoch(0)
    assert equal([next(batches)], whole[:1])
    loader.prefetch()
    with pytest.raises(SegcError) as error:
        next(batches)
    assert [d.file for d in error.value.diagnostics] == [broken]
    broken.write_bytes(good)
    assert equal(list(loader.epoch(0, start_step=1)), whole[1:])
    loader.close()


@pytest.mark.usefixtures("pinned")
def test_a_fault_in_a_batch_that_was_fetched_ahead_keeps_its_kind(samples, monkeypatch):
    loader = TrainingLoader(samples, hyper(batch=5), pin_memory=True)
    batches = loader.epoch(0)
    next(batches)
    monkeypatch.setattr(TrainingSet, "__getitem__", lambda *_: 1 / 0)
    loader.prefetch()
    with pytest.raises(ZeroDivisionError):
        next(batches)


@pytest.mark.parametrize("overlap", [True, False])
@pytest.mark.parametrize("world", [1, 2, 3, 5])
def test_the_shares_of_all_processes_make_the_batch(samples, world, overlap):
    settings = hyper(overlap_mask=overlap)
    whole = epochs(TrainingLoader(samples, settings), 0)
    ranks = [TrainingLoader(samples, settings, rank=rank, world=world) for rank in range(world)]
    assert {len(loader) for loader in ranks} == {3}
    for batch, *shares in zip(whole, *(loader.epoch(0) for loader in ranks), strict=True):
        sizes = [len(share.images) for share in shares]
        assert max(sizes) - min(sizes) <= 1
        firsts = np.cumsum([0, *sizes[:-1]])
        for field in ("images", "classes", "boxes", "masks"):
            joined = torch.cat([getattr(share, field) for share in shares])
            assert torch.equal(joined, getattr(batch, field)), field
        indices = torch.cat([share.image_index + int(first) for share, first in zip(shares, firsts, strict=True)])
        assert torch.equal(indices, batch.image_index)


def test_a_process_outside_of_the_world_is_refused(samples):
    with pytest.raises(ValueError, match="rank 2"):
        TrainingLoader(samples, hyper(), rank=2, world=2)


def test_crowds_are_not_trained_on(samples):
    crowd = replace(samples[0].instances[0], is_crowd=True)
    with_crowd = replace(samples[0], instances=(*samples[0].instances, crowd))
    assert equal(epochs(TrainingLoader((with_crowd,), hyper()), 0), epochs(TrainingLoader(samples[:1], hyper()), 0))


def test_another_seed_changes_the_batches(samples):
    assert not equal(epochs(TrainingLoader(samples, hyper()), 0), epochs(TrainingLoader(samples, hyper(seed=1)), 0))


@pytest.mark.parametrize("kind", ["ram", "disk"])
@pytest.mark.parametrize("gib", [1.0, 2e-5])
def test_the_cache_changes_nothing(samples, kind, gib, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    bare = epochs(TrainingLoader(samples, hyper(augment=EVERYTHING, cache=False)), 0, 1)
    cached = TrainingLoader(samples, hyper(augment=EVERYTHING, cache=kind, cache_gib=gib))
    assert equal(epochs(cached, 0, 1), bare)
    assert equal(epochs(cached, 0, 1), bare)
    assert (cached.new_notice() is None) == (gib == 1)
    assert cached.new_notice() is None


def test_images_are_read_once(samples, monkeypatch):
    read = []

    def counting(sample):
        read.append(sample.image)
        return cv2.imread(str(sample.image))

    monkeypatch.setattr("segc.data.loader.read_sample", counting)
    epochs(TrainingLoader(samples, hyper(augment=EVERYTHING)), 0, 1, 2)
    assert sorted(read) == sorted(s.image for s in samples)


def test_spawned_workers_make_the_same_batches(samples, monkeypatch):
    alone = epochs(TrainingLoader(samples, hyper()), 0)
    for module in ("workers", "cache"):
        monkeypatch.setattr(f"segc.data.{module}.START_METHOD", "spawn")
    assert equal(alone, epochs(TrainingLoader(samples, hyper(workers=1)), 0))


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_images_are_named_and_stop_the_epoch(samples, workers):
    for index in (1, 6):
        samples[index].image.write_bytes(b"broken")
    loader = TrainingLoader(samples, hyper(batch=10, workers=workers))
    with pytest.raises(SegcError) as error:
        epochs(loader, 0)
    assert sorted(d.file.name for d in error.value.diagnostics if d.file) == ["1.png", "6.png"]
    assert {d.code for d in error.value.diagnostics} == {"D002"}


@pytest.mark.parametrize("augment", [FLIPS, EVERYTHING])
def test_others_take_the_places_of_unreadable_images_if_so_wished(samples, augment):
    for index in (1, 6):
        samples[index].image.write_bytes(b"broken")
    whole = epochs(TrainingLoader(samples, hyper(batch=3, augment=augment), skip=True), 0)
    assert [len(batch.images) for batch in whole] == [3, 3, 3, 1]
    named = [d.file.name for batch in whole for d in batch.faults if d.file]
    assert sorted(named) == ["1.png", "6.png"]
    helped = epochs(TrainingLoader(samples, hyper(batch=3, augment=augment, workers=2), skip=True), 0)
    assert equal(whole, helped)


def test_without_any_readable_image_it_is_an_error(samples):
    samples[0].image.write_bytes(b"broken")
    with pytest.raises(SegcError) as error:
        epochs(TrainingLoader(samples[:1], hyper(), skip=True), 0)
    assert [d.code for d in error.value.diagnostics] == ["D002"]


def test_an_image_of_another_size_than_its_labels_is_an_error(samples, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    other = replace(samples[0], size=(1, 1))
    for given in ([other], [samples[0], other]):  # also one whose picture is kept on disk
        with pytest.raises(SegcError) as error:
            epochs(TrainingLoader(given, hyper(cache="disk", batch=1)), 0)
        assert [d.code for d in error.value.diagnostics] == ["D008"]


def test_an_image_that_is_gone_is_named(samples):
    samples[0].image.unlink()
    with pytest.raises(SegcError) as error:
        epochs(TrainingLoader(samples, hyper()), 0)
    assert [(d.code, d.file) for d in error.value.diagnostics] == [("D002", samples[0].image)]


def test_one_setting_does_not_move_the_draws_of_another(samples):
    """With flips certain or impossible, everything else comes out the same, mirrored."""
    ways = {
        side: epochs(TrainingLoader(samples, hyper(augment=Augment(fliplr=side, close_mosaic=0))), 0) for side in (0, 1)
    }
    for plain, flipped in zip(ways[0], ways[1], strict=True):
        assert torch.equal(plain.images.flip(-1), flipped.images)
    coloured = epochs(TrainingLoader(samples, hyper(augment=Augment(close_mosaic=0))), 0)
    grey = epochs(TrainingLoader(samples, hyper(augment=Augment(close_mosaic=0, hsv_h=0, hsv_s=0, hsv_v=0))), 0)
    assert not equal(coloured, grey)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(coloured, grey, strict=True))


def test_the_last_epochs_have_no_mosaic(samples):
    augment = Augment(**{**STILL, "mosaic": 1}, close_mosaic=2, fliplr=0)
    loader = TrainingLoader(samples, hyper(epochs=4, augment=augment))
    plain = TrainingLoader(samples, hyper(epochs=4, augment=Augment(**STILL, fliplr=0)))
    same = [equal(epochs(loader, epoch), epochs(plain, epoch)) for epoch in range(4)]
    assert same == [False, False, True, True]


def test_sizes_vary_by_steps_and_are_the_same_in_all_processes(samples):
    settings = hyper(multi_scale=0.5, imgsz=128, augment=EVERYTHING, batch=2)
    sizes = {step_size(settings, epoch, step) for epoch in range(10) for step in range(10)}
    assert {height for height, _ in sizes} == {64, 96, 128, 160, 192}
    ranks = [epochs(TrainingLoader(samples, settings, rank=rank, world=2), 0) for rank in (0, 1)]
    shapes = [[tuple(batch.images.shape[2:]) for batch in rank] for rank in ranks]
    assert shapes[0] == shapes[1]
    assert len(set(shapes[0])) > 1
    for batch in ranks[0]:
        assert tuple(batch.masks.shape[1:]) == tuple(side // 4 for side in batch.images.shape[2:])


@pytest.mark.parametrize("augment", [FLIPS, EVERYTHING])
@pytest.mark.parametrize("imgsz", [(64, 96), 96])
def test_boxes_lie_in_the_frame_and_go_round_the_masks(samples, augment, imgsz):
    settings = hyper(imgsz=imgsz, augment=augment, multi_scale=0.4, overlap_mask=False, mask_ratio=1)
    for batch in epochs(TrainingLoader(samples, settings), 0, 1):
        height, width = batch.images.shape[2:]
        limit = torch.tensor([width, height] * 2)
        assert (batch.boxes >= 0).all()
        assert (batch.boxes <= limit).all()
        assert (batch.boxes[:, 2:] > batch.boxes[:, :2]).all()
        for box, mask in zip(batch.boxes, batch.masks, strict=True):
            rows, columns = np.nonzero(mask.numpy())
            drawn = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
            assert (drawn - box).abs().max() <= 1


def test_boxes_and_masks_lie_on_the_letterboxed_photograph(shapes):
    images = sorted((shapes / "images" / "train").iterdir())[:6]
    scenes = TrainingSet(read_samples(images, 6), hyper(imgsz=(320, 256), augment=Augment(**STILL, fliplr=0)))
    for index in range(len(images)):
        item = scenes[0, index, (320, 256)]
        assert isinstance(item, TrainingItem)
        assert item.image.shape == (320, 256, 3)
        assert (item.boxes[:, 2:] > item.boxes[:, :2]).all()
        assert (item.boxes[:, [0, 2]] <= 256).all()
        for place, (x0, y0, x1, y1) in enumerate(item.boxes / 4, 1):
            cells = np.argwhere(item.masks == place)
            if len(cells):
                assert cells.min(axis=0).tolist() >= [np.floor(y0), np.floor(x0)]
                assert (cells.max(axis=0) + 1 <= [np.ceil(y1) + 1, np.ceil(x1) + 1]).all()


def test_the_frame_is_rgb(tmp_path):
    blue = np.zeros((SIZE, SIZE, 3), np.uint8)
    blue[..., 0] = 200
    cv2.imwrite(str(tmp_path / "blue.png"), blue)
    item = TrainingSet((Sample(tmp_path / "blue.png", None, ()),), hyper())[0, 0, (SIZE, SIZE)]
    assert isinstance(item, TrainingItem)
    assert item.image[0, 0].tolist() == [0, 0, 200]


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such scheduling elsewhere")
@pytest.mark.parametrize("yielding", [True, False])
def test_workers_give_way_where_they_are_to(samples, yielding):
    others = set(multiprocessing.active_children())
    loader = TrainingLoader(samples, hyper(workers=2), yielding=yielding)
    next(loader.epoch(0))
    workers = set(multiprocessing.active_children()) - others
    assert {os.sched_getscheduler(one.pid or 0) for one in workers} == {os.SCHED_IDLE if yielding else os.SCHED_OTHER}


@pytest.mark.skipif(sys.platform != "linux", reason="there is no such scheduling elsewhere")
def test_workers_that_get_nowhere_compete_after_a_while_and_make_the_same_batches(samples, monkeypatch):
    expected = epochs(TrainingLoader(samples, hyper(batch=1)), 0, 1, 2)
    monkeypatch.setattr("segc.data.workers._SECONDS_TO_JUDGE_BY", 0.2)
    composed = TrainingSet._composed

    def slow(*arguments):
        time.sleep(0.05)
        return composed(*arguments)

    monkeypatch.setattr(TrainingSet, "_composed", slow)
    others = set(multiprocessing.active_children())
    loader = TrainingLoader(samples, hyper(batch=1, workers=1), yielding=True)
    first = next(loader.epoch(0))
    before = set(multiprocessing.active_children()) - others
    found = [first, *loader.epoch(0, 1), *epochs(loader, 1, 2)]
    after = set(multiprocessing.active_children()) - others
    assert [os.sched_getscheduler(one.pid or 0) for one in after] == [os.SCHED_OTHER]
    assert not before & after
    assert equal(found, expected)


def test_only_waiting_most_of_the_time_is_starvation():
    def judged(waits: float, works: float, batches: int) -> bool:
        starvation, now = Starvation(), 0.0
        for _ in range(batches):
            starvation.add(now, now + waits)
            now += waits + works
        return starvation.is_lasting()

    assert judged(1, 0.1, 8)
    assert not judged(1, 0.1, 7)
    assert not judged(0.1, 1, 100)
    assert not judged(0.01, 0.001, 8)
    assert not judged(0, 0, 8)


def kill_one(others: set[Any], number: int) -> None:
    worker = min(set(multiprocessing.active_children()) - others, key=lambda one: one.pid)
    os.kill(worker.pid, number)
    while worker.is_alive():
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="a signal for each")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_worker_that_dies_is_started_again_and_the_batches_are_the_same(samples, number):
    settings = hyper(batch=1, augment=EVERYTHING)
    expected = epochs(TrainingLoader(samples, settings), 0, 1)
    others, said = set(multiprocessing.active_children()), []
    loader = TrainingLoader(samples, hyper(batch=1, augment=EVERYTHING, workers=2), said=said.append)
    found = []
    for epoch in (0, 1):
        for batch in loader.epoch(epoch):
            found.append(batch)
            if len(found) in {1, len(samples)}:
                kill_one(others, number)
    assert equal(found, expected)
    assert len(said) >= 1
    assert signal.Signals(number).name in said[0]
    assert "started again" in said[0]
    loader.close()
    assert not set(multiprocessing.active_children()) - others


@pytest.mark.skipif(sys.platform != "linux", reason="memory is shared by forking")
def test_an_image_that_crashes_its_reader_is_named(samples, monkeypatch):
    def crash(sample):
        if sample is samples[1]:
            os.kill(os.getpid(), signal.SIGKILL)
        return read_sample(sample)

    monkeypatch.setattr("segc.data.loader.read_sample", crash)
    said = []
    with pytest.raises(SegcError) as error:
        epochs(TrainingLoader(samples, hyper(workers=2), said=said.append), 0)
    assert [d.code for d in error.value.diagnostics] == ["R013"]
    assert str(samples[1].image) in error.value.diagnostics[0].message
    assert len(said) == 2


def test_a_fault_of_the_program_in_a_worker_keeps_its_traceback(samples, monkeypatch):
    monkeypatch.setattr("segc.data.loader.collate", lambda *_: 1 / 0)
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        epochs(TrainingLoader(samples, hyper(workers=1)), 0)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_batches_take_no_shared_memory_files_and_few_descriptors(samples):
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    files = set(Path("/dev/shm").iterdir())
    loader = TrainingLoader(samples, hyper(batch=1, workers=2))
    kept = [batch for epoch in range(5) for batch in loader.epoch(epoch)]
    assert len(kept) == 5 * len(samples)
    assert set(Path("/dev/shm").iterdir()) <= files
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 8


def test_of_a_dataset_that_is_gone_a_few_images_are_named(samples):
    many = [replace(samples[0], image=samples[0].image.with_name(f"gone{n}.png")) for n in range(8)]
    with pytest.raises(SegcError) as error:
        epochs(TrainingLoader(many, hyper(batch=8)), 0)
    (gone,) = error.value.diagnostics
    assert (gone.code, gone.message, gone.count) == ("D002", "the image was there before and is gone", 8)
    named = {gone.file, *(one.file for one in gone.examples)}
    assert named < {one.image for one in many}
    assert len(named) == MOST_EXAMPLES
