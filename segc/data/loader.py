"""Training batches: a pure function of seed, epoch and place in the epoch, whatever number of workers makes them."""

import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from segc.compute import memory_limit
from segc.data.augment import blend, mirror, paste_objects, recolour
from segc.data.batch import Batch, Faults, TrainingItem, collate, first_of, packed, unpacked
from segc.data.cache import Cache, DiskCache, MemoryCache, NoCache, Picture
from segc.data.crops import crop_source
from segc.data.geometry import (
    Matrix,
    Shapes,
    blank,
    centred,
    mosaic_places,
    paint,
    project_objects,
    random_view,
    shapes,
    shift,
    stretch,
)
from segc.data.samples import Sample, read_sample
from segc.data.scene import Parts, Scene, boxes_of, index_map, object_masks
from segc.data.workers import Arrays, Pool, Starvation, shared_numbers
from segc.diagnostics import SegcError, fail
from segc.inference.letterbox import letterbox_geometry
from segc.inference.tiles import DecodedPicture
from segc.inference.tiles import Picture as WholePicture
from segc.schema import LARGEST_STRIDE

if TYPE_CHECKING:
    from segc.spec.hyperparameters import Hyperparameters

_SHUFFLING, _AUGMENTING, _SIZING = 1, 2, 3
"""First word of a seed: streams of random numbers for different uses differ."""

_ITSELF, _BLENDED, _DONOR = 0, 1, 2
"""What an image is composed for: to be the training image, to be blended with it, to give it objects."""

_MOSAIC, _VIEW, _MIXUP, _BLENDING, _DONATION, _PASTING, _COLOUR, _FLIPUD, _FLIPLR, _REPLACEMENT = range(10)
"""What is drawn. Each has a stream of its own, so that no setting moves the draws of another one."""


def _trained(sample: Sample) -> tuple[tuple[int, ...], Shapes]:
    """Classes and polygons of the objects that are trained on."""
    chosen = [one for one in sample.instances if not one.is_crowd]
    return tuple(one.class_id for one in chosen), shapes([one.polygons for one in chosen])


def _make_cache(samples: Sequence[Sample], hyper: "Hyperparameters") -> Cache:
    budget = round(hyper.cache_gib * 2**30)
    if hyper.cache == "disk":
        pictures = [(sample.image, sample.region) for sample in samples]
        return DiskCache(pictures, hyper.size, budget)
    if hyper.cache in {"auto", "ram"}:
        budget = min(budget, memory_limit() // 4)
        return MemoryCache(len(samples), hyper.size[0] * hyper.size[1] * 3, budget)
    return NoCache()


def _places_of_crops(samples: Sequence[Sample]) -> dict[Path, list[int]]:
    """Of images that are cut into crops the places of all that is taken of them."""
    cut = {sample.image for sample in samples if sample.region is not None}
    places: dict[Path, list[int]] = {}
    for index, sample in enumerate(samples):
        if sample.image in cut:
            places.setdefault(sample.image, []).append(index)
    return places


Key = tuple[int, int, tuple[int, int]]
"""What an item depends on: epoch, index, and (height, width) to train at."""


@dataclass(frozen=True, slots=True)
class _Draws:
    """The random numbers of an image in an epoch, for one of its roles."""

    seed: int
    epoch: int
    index: int
    role: int = _ITSELF

    def of(self, what: int) -> np.random.Generator:
        return np.random.default_rng([_AUGMENTING, self.seed, self.epoch, self.index, self.role, what])

    def meets(self, what: int, probability: float) -> bool:
        return probability > 0 and float(self.of(what).random()) < probability


class TrainingSet:
    """The training images by (epoch, index, size), augmented.

    Args:
        samples: the images.
        hyper: seed, size, augmentation, the form of the masks, and the cache.
        skip: give the place of an image that cannot be read to another one, drawn at random; where it would be one of
            several in a mosaic, leave it out.
    """

    def __init__(self, samples: Sequence[Sample], hyper: "Hyperparameters", *, skip: bool = False) -> None:
        self.samples = samples
        self.hyper = hyper
        self.skip = skip
        self.cache = _make_cache(samples, hyper)
        self.at_hand: NDArray[np.int64] | None = None
        """Of each worker the image that it reads, counted from 1, where others see it when the worker has died."""
        self.number = 0
        """Of the worker that this copy is in."""
        self._labels = [_trained(sample) for sample in samples]
        self._crops = _places_of_crops(samples)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: Key) -> TrainingItem | Faults:
        """The image at (epoch, index, size), or what is wrong with it."""
        epoch, index, size = key
        try:
            chosen, faults = self._readable(epoch, index) if self.skip else (index, ())
            return replace(self._item(epoch, chosen, size), faults=faults)
        except SegcError as error:
            return error.diagnostics

    def _readable(self, epoch: int, index: int) -> tuple[int, Faults]:
        """An image that can be read: that of the index, else another one, with what is wrong with the first.

        Raises:
            SegcError: where none of many can be read.
        """
        try:
            self._picture(index)
        except SegcError as error:
            others = _Draws(self.hyper.seed, epoch, index).of(_REPLACEMENT)
            for other in others.integers(len(self.samples), size=_MOST_TRIES).tolist():
                if self._partner(other) is not None:
                    return other, error.diagnostics
            raise
        return index, ()

    def _item(self, epoch: int, index: int, size: tuple[int, int]) -> TrainingItem:
        augment = self.hyper.augment
        draws = _Draws(self.hyper.seed, epoch, index)
        scene = self._composed(draws, size)
        if augment.copy_paste:
            donor = self._donor(scene, draws, size)
            scene = paste_objects(scene, donor, augment.copy_paste, draws.of(_PASTING))
        if draws.meets(_MIXUP, augment.mixup):
            generator = draws.of(_BLENDING)
            other = self._another(generator, draws, _BLENDED)
            scene = blend(scene, self._composed(other, size), generator)
        sideways, upside_down = draws.meets(_FLIPLR, augment.fliplr), draws.meets(_FLIPUD, augment.flipud)
        scene = mirror(scene, sideways=sideways, upside_down=upside_down)
        return self._training_item(replace(scene, image=recolour(scene.image, augment, draws.of(_COLOUR))))

    def _donor(self, scene: Scene, draws: _Draws, size: tuple[int, int]) -> Scene:
        """The scene that objects are taken from to be pasted."""
        if self.hyper.augment.copy_paste_mode == "flip":
            return mirror(scene, sideways=True, upside_down=False)
        return self._composed(self._another(draws.of(_DONATION), draws, _DONOR), size)

    def _another(self, generator: np.random.Generator, draws: _Draws, role: int) -> _Draws:
        return _Draws(draws.seed, draws.epoch, int(generator.integers(len(self.samples))), role)

    def _composed(self, draws: _Draws, size: tuple[int, int]) -> Scene:
        """An image, or a mosaic of it and three others, seen at random in a frame of (height, width)."""
        base, augment = self.hyper.size, self.hyper.augment
        view = random_view(augment, base, draws.of(_VIEW))
        members = self._members(draws)
        prune = len(members) > 1 or not np.array_equal(view, shift(base[1] / 2, base[0] / 2))
        fit = stretch(size[1] / base[1], size[0] / base[0]) @ view
        canvas = blank(size)
        classes: list[int] = []
        objects: list[Parts] = []
        for index, image, place in members:
            matrix = fit @ place
            paint(canvas, image, matrix)
            numbers, polygons = self._labels[index]
            on_image = matrix @ stretch(image.shape[1], image.shape[0])
            kept, visible = project_objects(polygons, on_image, size, prune=prune)
            classes += [numbers[number] for number in kept]
            objects += visible
        return Scene(canvas, tuple(classes), tuple(objects))

    def _members(self, draws: _Draws) -> list[tuple[int, NDArray[np.uint8], Matrix]]:
        """The images that are joined: index, pixels, and place on the plane."""
        augment, base = self.hyper.augment, self.hyper.size
        generator = draws.of(_MOSAIC)
        closed = draws.epoch >= self.hyper.epochs - augment.close_mosaic
        joined = not closed and generator.random() < augment.mosaic
        indices = [draws.index, *generator.integers(len(self.samples), size=3).tolist()] if joined else [draws.index]
        pictures = [self._partner(index) for index in indices]
        sizes = [picture[0].shape[:2] if picture else base for picture in pictures]
        places = mosaic_places(sizes, base, generator) if joined else (centred(sizes[0], base),)
        found = zip(indices, pictures, places, strict=True)
        return [(index, picture[0], place) for index, picture, place in found if picture]

    def _partner(self, index: int) -> Picture | None:
        """An image that joins others; None for one that cannot be read and is to be left out."""
        try:
            return self._picture(index)
        except SegcError:
            if self.skip:
                return None
            raise

    def _picture(self, index: int) -> Picture:
        """An image as large as the network takes it.

        Raises:
            SegcError: D002 where it cannot be read, D008 where it is not of the size that its labels are for.
        """
        sample = self.samples[index]
        kept = self.cache.get(index)
        if kept is not None and sample.size in {None, kept[1]}:
            return kept
        if self.at_hand is not None:
            self.at_hand[self.number] = index + 1
        if sample.image in self._crops:
            picture = self._crop(index)
        else:
            image = read_sample(sample)
            original = (image.shape[0], image.shape[1])
            picture = self._fitted(image, original), original
            self.cache.put(index, picture)
        if self.at_hand is not None:
            self.at_hand[self.number] = 0
        return picture

    def _crop(self, index: int) -> Picture:
        """A crop of an image; of one that has to be decoded whole for it all others are kept, too, where there is room.

        Raises:
            SegcError: as :meth:`_picture`.
        """
        whole = crop_source(self.samples[index])
        others = self._crops[self.samples[index].image] if isinstance(whole, DecodedPicture) else ()
        for other in others:
            if other != index and self.cache.wants(other):
                self.cache.put(other, self._cut(whole, other))
        picture = self._cut(whole, index)
        self.cache.put(index, picture)
        return picture

    def _cut(self, whole: WholePicture, index: int) -> Picture:
        sample, size = self.samples[index], whole.size
        try:
            if sample.region is None:
                # As predictions see the whole besides its tiles.
                return self._fitted(whole.reduced(2 * max(self.hyper.size)), size), size
            image = whole.region(*sample.region)
        except ValueError as error:
            raise fail("D002", str(error), file=sample.image) from None
        return self._fitted(image, (image.shape[0], image.shape[1])), size

    def _fitted(self, image: NDArray[np.uint8], original: tuple[int, int]) -> NDArray[np.uint8]:
        """An image [h, w, 3] BGR, of what has (height, width), as large as the network takes it, in RGB."""
        height, width = letterbox_geometry(original, self.hyper.size).resized
        if (height, width) != image.shape[:2]:
            image = np.asarray(cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), np.uint8)

    def _training_item(self, scene: Scene) -> TrainingItem:
        height, width = scene.image.shape[:2]
        masks: NDArray[Any] = object_masks(scene.objects, height, width, self.hyper.mask_ratio)
        return TrainingItem(
            image=scene.image,
            classes=np.array(scene.classes, np.int64),
            boxes=boxes_of(scene.objects, height, width),
            masks=index_map(masks) if self.hyper.overlap_mask else masks,
        )

    def empty(self) -> TrainingItem:
        """An item without objects, in grey, for its shapes."""
        return self._training_item(Scene(blank(self.hyper.size), (), ()))


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The images in the order in which an epoch takes them."""
    return np.random.default_rng([_SHUFFLING, seed, epoch]).permutation(count)


def share(count: int, rank: int, world: int) -> tuple[int, int]:
    """First and last but one place of a process among ``count`` images of a batch. Sizes differ by one at most."""
    return count * rank // world, count * (rank + 1) // world


_MOST_TRIES = 100
"""Images that are tried in the place of one that cannot be read, before it is an error after all."""


def step_size(hyper: "Hyperparameters", epoch: int, step: int) -> tuple[int, int]:
    """(height, width) that a step trains at: the input size, changed by as much as ``multi_scale`` allows."""
    if not hyper.multi_scale:
        return hyper.size
    change = np.random.default_rng([_SIZING, hyper.seed, epoch, step]).uniform(-1, 1) * hyper.multi_scale
    height, width = (max(round(side * (1 + change) / LARGEST_STRIDE), 1) * LARGEST_STRIDE for side in hyper.size)
    return height, width


@dataclass(frozen=True, slots=True)
class _Order:
    """The keys of a process's shares of the batches; the last batch of each epoch may be smaller.

    One epoch follows the other without an end, so that workers make its first batches while others are still in use.
    """

    count: int
    hyper: "Hyperparameters"
    rank: int
    world: int

    def __len__(self) -> int:
        return (self.count + self.hyper.batch_size - 1) // self.hyper.batch_size

    def after(self, epoch: int, step: int) -> Iterator[list[Key]]:
        """The keys from a step of an epoch on."""
        yield from self._epoch(epoch, step)
        for following in itertools.count(epoch + 1):
            yield from self._epoch(following, 0)

    def _epoch(self, epoch: int, start_step: int) -> Iterator[list[Key]]:
        order = epoch_order(self.count, self.hyper.seed, epoch).tolist()
        for step in range(start_step, len(self)):
            indices = order[step * self.hyper.batch_size : (step + 1) * self.hyper.batch_size]
            size = step_size(self.hyper, epoch, step)
            yield [(epoch, index, size) for index in indices[slice(*share(len(indices), self.rank, self.world))]]


def room(hyper: "Hyperparameters", world: int) -> int:
    """Bytes that the images and masks of a process's share of a batch take, where all masks of an image are in one."""
    images = -(-hyper.batch_size // world)
    height, width = (side * (1 + hyper.multi_scale) + LARGEST_STRIDE for side in hyper.size)
    return int(images * height * width * (3 + 4 / hyper.mask_ratio**2)) + 4096


def _make_batch(dataset: TrainingSet, like: TrainingItem, keys: Sequence[Key]) -> tuple[Any, Arrays]:
    """What a worker does."""
    return packed(collate([dataset[key] for key in keys], like))


class TrainingLoader:
    """The batches of any epoch, made by worker processes.

    Where several processes train together each has its share of every batch: put one behind the other in the order of
    ranks, the shares are the batch that a single process would have.

    Args:
        samples: the training images.
        hyper: batch size (of all processes together), workers, and what :class:`TrainingSet` reads.
        pin_memory: put batches where a GPU copies them from faster.
        rank: number of this process, from 0.
        world: number of processes. Where a batch has fewer images than that, some shares of it are empty.
        skip: give the places of images that cannot be read to others; ``Batch.faults`` names them.
        yielding: have workers run only when a processor has nothing else to do, where the network runs on processors
            too: each time that a thread of it shares one with a worker, all its other threads wait for that one. Where
            other programs leave too little for that, workers compete as usual after a while.
        said: told about workers that died and were started again.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        hyper: "Hyperparameters",
        *,
        pin_memory: bool = False,
        rank: int = 0,
        world: int = 1,
        skip: bool = False,
        yielding: bool = False,
        said: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._pool: Pool | None = None
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world}")
        self.dataset = TrainingSet(samples, hyper, skip=skip)
        self._told = False
        self._order, self._world = _Order(len(samples), hyper, rank, world), world
        self._workers, self._pin_memory = min(hyper.worker_count, len(self._order)), pin_memory
        self._starvation = Starvation() if yielding and self._workers else None
        self._said = said
        self._batches: Iterator[Batch | Faults] = iter(())
        self._ahead: Batch | Faults | Exception | None = None
        """What was taken from the workers before it is asked for."""
        self._next: tuple[int, int] | None = None
        """Epoch and step of the batch that comes next where nobody asks for another one."""

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._order)

    def new_notice(self) -> str | None:
        """Why images are decoded every time although they should be kept, where that has not been told yet."""
        notice = None if self._told else self.dataset.cache.notice()
        self._told = notice is not None or self._told
        return notice

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from one of its steps on.

        Raises:
            SegcError: D002 for images that cannot be read, of which the first few of a batch are named; R013 where
                workers die again and again.
        """
        if self._next != (epoch, start_step):
            self._begin(epoch, start_step)
        for step in range(start_step, len(self)):
            self._next = None  # until the batch is there
            if self._starvation and self._starvation.is_lasting() and self._pool:
                self._starvation = None
                self._pool.restart(partial(_start_worker, self.dataset, yielding=False))
            batch, self._ahead = self._wait() if self._ahead is None else self._ahead, None
            if isinstance(batch, Exception):
                raise batch
            if not isinstance(batch, Batch):
                raise SegcError(first_of(batch))
            self._next = (epoch, step + 1) if step + 1 < len(self) else (epoch + 1, 0)
            yield batch

    def prefetch(self) -> None:
        """Wait for the batch that comes next and copy it for a GPU, which computes meanwhile; else do nothing.

        What goes wrong is raised when that batch is asked for.
        """
        if self._pin_memory and self._ahead is None and self._next is not None:
            try:
                self._ahead = self._wait()
            except Exception as error:  # noqa: BLE001 - the step at hand shall end first
                self._ahead = error

    def set_epochs(self, epochs: int) -> None:
        """Make batches for a training of so many epochs from now on."""
        self.dataset.hyper = self.dataset.hyper.model_copy(update={"epochs": epochs})
        self.close()
        self._next = None

    def close(self) -> None:
        """End the worker processes; asked for another batch, they are started again."""
        self._ahead = None
        if self._pool is not None:
            self._batches, self._next = iter(()), None
            self._pool.close()
            self._pool = None

    def __del__(self) -> None:
        self.close()

    def _begin(self, epoch: int, step: int) -> None:
        self._next = self._ahead = None
        keep = torch.Tensor.pin_memory if self._pin_memory else torch.Tensor.clone
        make = partial(_make_batch, self.dataset, self.dataset.empty())
        keys = self._order.after(epoch, step)
        if not self._workers:
            self._batches = (unpacked(*make(key), keep) for key in keys)
            return
        if self._pool is None:
            self.dataset.at_hand = shared_numbers(self._workers)
            self._pool = Pool(
                make,
                self._workers,
                room=room(self.dataset.hyper, self._world),
                start=partial(_start_worker, self.dataset, yielding=self._starvation is not None),
                describe=self._at_hand,
                said=self._said,
                mend=self.dataset.cache.mend,
            )
        self._pool.begin(keys)
        self._batches = (unpacked(*result, keep) for result in self._pool.results())

    def _at_hand(self, number: int) -> str:
        """What a worker was reading."""
        index = 0 if self.dataset.at_hand is None else int(self.dataset.at_hand[number])
        return f" while it read {self.dataset.samples[index - 1].image}" if index else ""

    def _wait(self) -> Batch | Faults:
        asked = time.monotonic()
        batch = next(self._batches)
        if self._starvation:
            self._starvation.add(asked, time.monotonic())
        return batch


def _start_worker(dataset: TrainingSet, number: int, *, yielding: bool) -> None:
    """Leave the processors to the network: a worker is one thread, which gives way to all others where it is to."""
    dataset.number = number
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    if yielding and sys.platform == "linux":
        with suppress(OSError):  # not everywhere may a process ask for that
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
