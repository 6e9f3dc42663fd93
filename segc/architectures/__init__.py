"""Architecture families: one file each, with ``SCALES``, ``Scale`` and ``build``, all giving a graph."""

from typing import TYPE_CHECKING, Any, Protocol

from segc.architectures import yolov8_seg

if TYPE_CHECKING:
    from segc.graph.ir import Graph

FAMILIES = {"yolov8-seg": yolov8_seg}


class Wanted(Protocol):
    """The network that is asked for, as the spec's ``architecture`` says."""

    @property
    def family(self) -> str:
        """A key of ``FAMILIES``."""
        ...

    @property
    def scale(self) -> Any:
        """A key of the family's ``SCALES``, or ``depth``, ``width`` and ``max_channels``."""
        ...


def build_graph(architecture: Wanted, nc: int, size: tuple[int, int], batch: int = 1) -> "Graph":
    """Lower an architecture to its graph in inference form.

    Args:
        architecture: family and scale, as in the spec.
        nc: number of classes.
        size: nominal input (height, width) in pixels.
        batch: nominal number of images.

    Raises:
        ValueError: where the family does not take the size or the number of classes.
    """
    family = FAMILIES[architecture.family]
    custom = architecture.scale
    if isinstance(custom, str):
        scale = family.SCALES[custom]
    else:
        scale = family.Scale(custom.depth, custom.width, custom.max_channels)
    graph: Graph = family.build(scale, nc, size, batch)
    return graph
