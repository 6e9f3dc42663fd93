"""Training batches: a pure function of seed, epoch and place in the epoch, whatever number of workers makes them."""

import mmap
import multiprocessing
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from segc.data.dataset import Sample, read_image
from segc.data.scene import Scene, boxes_of, changes, index_map, object_masks
from segc.diagnostics import Diagnostic, SegcError
from segc.inference.letterbox import PADDING_GREY, Letterbox, letterbox, letterbox_geometry

if TYPE_CHECKING:
    from segc.spec.hyperparameters import Hyperparameters

CACHE_BYTES = 2**30
"""Letterboxed images are kept in memory as long as those of the whole split fit into this."""

START_METHOD = "fork" if sys.platform == "linux" else "spawn"
"""How workers start. Forked ones start at once and share the cache; elsewhere forking is not safe."""

_SHUFFLING, _AUGMENTING = 1, 2
"""First word of a seed: streams of random numbers for different uses differ."""


@dataclass(slots=True)
class Batch:
    """What one step of training reads. B images, T objects of all of them together, in the order of the images.

    Attributes:
        images: uint8 [B, 3, H, W], RGB.
        image_index: int64 [T], the image of each object.
        classes: int64 [T].
        boxes: float32 [T, 4], x1, y1, x2, y2 in pixels of the images.
        masks: int32 [B, H / ratio, W / ratio] where each cell has 1 + the object's place among those of its image (0 is
            background), or uint8 [T, H / ratio, W / ratio], one mask of 0 and 1 an object.
    """

    images: Tensor
    image_index: Tensor
    classes: Tensor
    boxes: Tensor
    masks: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device."""
        return Batch(*(getattr(self, field.name).to(device, non_blocking=True) for field in fields(self)))

    def pin_memory(self) -> Self:
        """Called by the loader, for faster copies to a GPU."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name).pin_memory())
        return self


class FrameCache:
    """Letterboxed images of a split in memory, each read once.

    Forked workers share it. It is anonymous memory, which, unlike /dev/shm in a container, has no limit of its own.
    Where processes are spawned each has its own.

    Args:
        count: images of the split.
        size: (height, width) of the frames.
    """

    def __init__(self, count: int, size: tuple[int, int]) -> None:
        self._shape = (count, *size, 3)
        self._lock = multiprocessing.get_context(START_METHOD).Lock()
        self._allocate()

    def _allocate(self) -> None:
        pixels = int(np.prod(self._shape))
        self._originals = np.frombuffer(mmap.mmap(-1, 8 * self._shape[0]), np.int32).reshape(-1, 2)
        self._frames = np.frombuffer(mmap.mmap(-1, pixels), np.uint8).reshape(self._shape)

    def __getstate__(self) -> dict[str, Any]:
        return {"_shape": self._shape, "_lock": self._lock}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._allocate()

    def get(self, index: int) -> tuple[NDArray[np.uint8], tuple[int, int]] | None:
        """The frame [H, W, 3], not to be written to, and the photograph's (height, width); None if not there yet."""
        with self._lock:
            height, width = self._originals[index].tolist()
        return (self._frames[index], (height, width)) if height else None

    def put(self, index: int, frame: NDArray[np.uint8], original: tuple[int, int]) -> None:
        """Keep a frame. Two processes that put the same one write the same bytes."""
        self._frames[index] = frame
        with self._lock:
            self._originals[index] = original


@dataclass(frozen=True, slots=True, eq=False)
class TrainingItem:
    """One image of a batch: ``image`` [3, H, W], ``classes`` [t], ``boxes`` [t, 4], ``masks`` as in :class:`Batch`."""

    image: NDArray[np.uint8]
    classes: NDArray[np.int64]
    boxes: NDArray[np.float32]
    masks: NDArray[Any]


Faults = tuple[Diagnostic, ...]
"""What is wrong with an image. Errors pass from workers to the main process as values, so that they arrive whole."""


class TrainingSet(Dataset[TrainingItem | Faults]):
    """The training images by (epoch, index), augmented.

    Args:
        samples: the images.
        hyper: size, seed, augmentation and the form of the masks.
    """

    def __init__(self, samples: Sequence[Sample], hyper: "Hyperparameters") -> None:
        self.samples = samples
        self.hyper = hyper
        self._changes = changes(hyper.augment)
        needed = len(samples) * hyper.size[0] * hyper.size[1] * 3
        self._cache = FrameCache(len(samples), hyper.size) if needed <= CACHE_BYTES else None

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, key: tuple[int, int]) -> TrainingItem | Faults:
        """The image at (epoch, index), or what is wrong with it."""
        try:
            return self._item(*key)
        except SegcError as error:
            return error.diagnostics

    def _item(self, epoch: int, index: int) -> TrainingItem:
        scene = self.scene(index)
        generator = np.random.default_rng([_AUGMENTING, self.hyper.seed, epoch, index])
        for change in self._changes:
            scene = change(scene, generator)
        return self._training_item(scene)

    def _training_item(self, scene: Scene) -> TrainingItem:
        height, width = scene.image.shape[:2]
        masks: NDArray[Any] = object_masks(scene.objects, height, width, self.hyper.mask_ratio)
        return TrainingItem(
            image=np.ascontiguousarray(scene.image.transpose(2, 0, 1)),
            classes=np.array(scene.classes, np.int64),
            boxes=boxes_of(scene.objects, height, width),
            masks=index_map(masks) if self.hyper.overlap_mask else masks,
        )

    def empty(self) -> TrainingItem:
        """An item without objects, in grey, for its shapes."""
        return self._training_item(Scene(np.full((*self.hyper.size, 3), PADDING_GREY, np.uint8), (), ()))

    def scene(self, index: int) -> Scene:
        """An image in the network's frame, as it is before augmentation.

        Raises:
            SegcError: D002 where it cannot be read.
        """
        frame, geometry = self._frame(index)
        scale = np.array(geometry.resized[::-1], np.float32)
        offset = np.array([geometry.left, geometry.top], np.float32)
        instances = [one for one in self.samples[index].instances if not one.is_crowd]
        objects = tuple(tuple(polygon * scale + offset for polygon in one.polygons) for one in instances)
        return Scene(frame, tuple(one.class_id for one in instances), objects)

    def _frame(self, index: int) -> tuple[NDArray[np.uint8], Letterbox]:
        """The letterboxed RGB image and where the photograph lies in it."""
        if self._cache and (kept := self._cache.get(index)):
            return kept[0], letterbox_geometry(kept[1], self.hyper.size)
        frame, geometry = letterbox(read_image(self.samples[index].image), self.hyper.size)
        frame = np.ascontiguousarray(frame[:, :, ::-1])
        if self._cache:
            self._cache.put(index, frame, geometry.original)
        return frame, geometry


def collate(items: Sequence[TrainingItem | Faults], like: TrainingItem) -> Batch | Faults:
    """One batch of several images, or all that is wrong with those that cannot be read.

    Args:
        items: the images, which may be none.
        like: an item without objects, for the shapes of a batch without images.
    """
    faults = [fault for item in items if isinstance(item, tuple) for fault in item]
    if faults:
        return tuple(faults)
    good = [item for item in items if isinstance(item, TrainingItem)]
    counts = [len(item.classes) for item in good]
    masks = [item.masks for item in good]
    overlapping = like.masks.ndim == 2
    return Batch(
        images=torch.from_numpy(_joined(np.stack, [item.image for item in good], like.image[None])),
        image_index=torch.from_numpy(np.repeat(np.arange(len(good)), counts)),
        classes=torch.from_numpy(_joined(np.concatenate, [item.classes for item in good], like.classes)),
        boxes=torch.from_numpy(_joined(np.concatenate, [item.boxes for item in good], like.boxes)),
        masks=torch.from_numpy(
            _joined(np.stack, masks, like.masks[None]) if overlapping else _joined(np.concatenate, masks, like.masks)
        ),
    )


def _joined(join: Callable[..., NDArray[Any]], arrays: Sequence[NDArray[Any]], like: NDArray[Any]) -> NDArray[Any]:
    """The arrays as one; of none, one without rows."""
    return join(arrays) if arrays else like[:0]


def epoch_order(count: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The images in the order in which an epoch takes them."""
    return np.random.default_rng([_SHUFFLING, seed, epoch]).permutation(count)


def share(count: int, rank: int, world: int) -> tuple[int, int]:
    """First and last but one place of a process among ``count`` images of a batch. Sizes differ by one at most."""
    return count * rank // world, count * (rank + 1) // world


class _Order(Sampler[list[tuple[int, int]]]):
    """A process's shares of the batches of (epoch, index); the last batch of an epoch may be smaller."""

    def __init__(self, count: int, hyper: "Hyperparameters", rank: int, world: int) -> None:
        self.count, self.batch, self.seed = count, hyper.batch, hyper.seed
        self.rank, self.world = rank, world
        self.epoch = self.start_step = 0

    def __len__(self) -> int:
        return (self.count + self.batch - 1) // self.batch

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = epoch_order(self.count, self.seed, self.epoch).tolist()
        for start in range(self.start_step * self.batch, self.count, self.batch):
            indices = order[start : start + self.batch]
            yield [(self.epoch, index) for index in indices[slice(*share(len(indices), self.rank, self.world))]]


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
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        hyper: "Hyperparameters",
        *,
        pin_memory: bool = False,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if not 0 <= rank < world:
            raise ValueError(f"rank {rank} is not one of {world}")
        self.dataset = TrainingSet(samples, hyper)
        self._order = _Order(len(samples), hyper, rank, world)
        workers = min(hyper.workers, len(self._order))
        self._loader: DataLoader[Any] = DataLoader(
            self.dataset,
            batch_sampler=self._order,
            num_workers=workers,
            collate_fn=partial(collate, like=self.dataset.empty()),
            pin_memory=pin_memory,
            persistent_workers=workers > 0,
            worker_init_fn=_start_worker,
            multiprocessing_context=START_METHOD if workers else None,
        )

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._order)

    def epoch(self, epoch: int, start_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch, counted from 0, from one of its steps on.

        Raises:
            SegcError: D002 for images that cannot be read; all those of the batch are named.
        """
        self._order.epoch, self._order.start_step = epoch, start_step
        for batch in self._loader:
            if not isinstance(batch, Batch):
                raise SegcError(batch)
            yield batch


def _start_worker(_: int) -> None:
    """Leave the processors to the network: a worker is one thread."""
    cv2.setNumThreads(0)
    # The terminal's Ctrl-C reaches all processes; the main one ends the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
