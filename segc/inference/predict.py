"""From a photograph to its prediction, through any function that runs the network."""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice

import cv2
import numpy as np
import numpy.typing as npt

from segc.inference.filters import Filters, Tiling
from segc.inference.letterbox import Letterbox, boxes_to_image, letterbox
from segc.inference.masks import affordable, detection_masks
from segc.inference.metadata import Metadata
from segc.inference.postprocess import detections
from segc.inference.results import Prediction
from segc.inference.thresholds import above
from segc.inference.tiles import DecodedPicture, Picture, Tile, merge_tiles, tile_grid

Run = Callable[[npt.NDArray[np.float32]], Mapping[str, npt.NDArray[np.float32]]]
"""Runs the network: images [N, 3, H, W] in 0..1 RGB to the named outputs, see `named_outputs`."""


def predict_image(
    image: npt.NDArray[np.uint8], run: Run, metadata: Metadata, filters: Filters, path: str = ""
) -> Prediction:
    """What counts as a detection on one photograph, in tiles where they are asked for.

    Args:
        image: [h, w, 3] BGR, as OpenCV reads it.
        run: runs the network.
        metadata: the model's.
        filters: what counts as a detection.
        path: the name that the prediction carries.
    """
    if filters.tiles is not None:
        return predict_tiled(DecodedPicture(image), run, metadata, filters, filters.tiles, path=path)
    tensor, geometry = network_input(image, metadata.imgsz)
    # A model of a fixed larger batch gets the frame that often; its first answer counts.
    batch = 1 if metadata.dynamic else metadata.batch
    outputs = run(tensor if batch == 1 else tensor.repeat(batch, axis=0))
    first = {name: value[0] for name, value in outputs.items()}
    return image_prediction(first, geometry, metadata.names, filters, path)


def predict_tiled(
    picture: Picture,
    run: Run,
    metadata: Metadata,
    filters: Filters,
    tiling: Tiling,
    *,
    multi_label: bool = False,
    path: str = "",
) -> Prediction:
    """Detect on a picture tile by tile.

    A tile is letterboxed into the network's frame as a photograph is, so a ``size`` of the frame's side leaves its
    pixels as they are. ``max_det`` is the most detections of a tile. No more than a few tiles are in memory at a time,
    and the masks of what is found, which `merge_tiles` bounds.

    Args:
        picture: the picture.
        run: runs the network.
        metadata: the model's.
        filters: what counts as a detection.
        tiling: the tiles.
        multi_label: an anchor may stand for several classes (evaluation).
        path: the name that the prediction carries.

    Raises:
        ValueError: where a part of it cannot be decoded.
    """
    height, width = picture.size
    # A model of a fixed batch gets as many tiles at a time.
    number = 1 if metadata.dynamic else metadata.batch

    def found() -> Iterator[tuple[Tile, Prediction]]:
        left = iter(tile_grid(height, width, tiling))
        while tiles := list(islice(left, number)):
            inputs, geometries = zip(*(_tile_input(picture, tile, metadata.imgsz) for tile in tiles), strict=True)
            outputs = run(np.concatenate([*inputs, *inputs[-1:] * (number - len(inputs))]))
            for place, (tile, geometry) in enumerate(zip(tiles, geometries, strict=True)):
                mine = {name: value[place] for name, value in outputs.items()}
                yield tile, image_prediction(mine, geometry, metadata.names, filters, multi_label=multi_label)

    return merge_tiles(found(), height, width, path, most=filters.mask_bytes, limit=filters.max_det)


def _tile_input(picture: Picture, tile: Tile, size: tuple[int, int]) -> tuple[npt.NDArray[np.float32], Letterbox]:
    # Of the whole twice what the frame takes, so that the letterbox has the last word on how pixels are joined.
    ends = tile.x1, tile.y1, tile.x2, tile.y2
    image = picture.reduced(2 * max(size)) if tile.is_whole else picture.region(*ends)
    return network_input(image, size, (tile.y2 - tile.y1, tile.x2 - tile.x1))


def network_input(
    image: npt.NDArray[np.uint8], size: tuple[int, int], original: tuple[int, int] | None = None
) -> tuple[npt.NDArray[np.float32], Letterbox]:
    """A photograph [h, w, 3] BGR as the network takes it, [1, 3, H, W] RGB in 0..1, and where it lies in the frame.

    Where ``image`` is a smaller picture of a photograph, ``original`` is the (height, width) of that.
    """
    frame, geometry = letterbox(image, size, original)
    tensor = np.empty((1, 3, *size), np.float32)
    # As `to_input` does it, in half the time: channels that lie apart are taken apart by OpenCV first.
    for plane, channel in zip(tensor[0], reversed(cv2.split(frame)), strict=True):
        np.divide(channel, np.float32(255), out=plane, dtype=np.float32)
    return tensor, geometry


def image_prediction(
    outputs: Mapping[str, npt.NDArray[np.float32]],
    geometry: Letterbox,
    names: tuple[str, ...],
    filters: Filters,
    path: str = "",
    *,
    multi_label: bool = False,
) -> Prediction:
    """The prediction from one image's network outputs: what `predict_image` does after the network.

    Where a confidence near nought finds hundreds of large things on a large photograph, the best are kept whose masks
    ``filters.mask_memory`` allows; ``left_out`` counts the others.

    Args:
        outputs: the named outputs without the batch axis.
        geometry: where the photograph lies in the frame that the network saw.
        names: the model's classes.
        filters: what counts as a detection.
        path: the name that the prediction carries.
        multi_label: an anchor may stand for several classes (evaluation).
    """
    found = detections(
        outputs["boxes"],
        outputs["scores"],
        conf=filters.conf,
        iou=filters.iou,
        max_det=filters.max_det,
        multi_label=multi_label,
        only=filters.classes,
        agnostic=filters.agnostic,
    )
    boxes = boxes_to_image(found.boxes, geometry)
    kept = slice(affordable(boxes, filters.mask_bytes))
    masks = detection_masks(outputs, found.anchors[kept], found.boxes[kept], geometry, retina=filters.retina)
    prediction = Prediction(
        path=path,
        height=geometry.original[0],
        width=geometry.original[1],
        boxes=boxes[kept],
        scores=found.scores[kept],
        classes=found.classes[kept],
        names=names,
        masks=tuple(masks),
        left_out=len(boxes) - len(masks),
    )
    return above(prediction, filters.by_class)
