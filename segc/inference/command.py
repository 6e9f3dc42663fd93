"""The command line of a predict script."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from segc.inference.filters import LEAST_TILE, MOST_OVERLAP, FilterError, Filters, Tiling, choose_filters
from segc.inference.frames import reading_of
from segc.inference.jobs import predict_sources
from segc.inference.metadata import LARGEST_SIDE, ModelError
from segc.inference.model import Model
from segc.inference.show import ShowError, Window
from segc.inference.sources import SourceError, find_sources
from segc.inference.text import named_in_text, printable
from segc.inference.writers import SAVED
from segc.inference.writing import plan_files

SOURCES_HELP = (
    "images, videos, folders, quoted patterns, .txt lists, http(s) and rtsp(s) addresses, camera numbers, "
    "or - for an image on standard input"
)


def read_arguments(
    arguments: Sequence[str] | None, model: Path, defaults: Filters, devices: Sequence[str]
) -> argparse.Namespace:
    """The command line; wrong usage ends the program with status 2."""
    parser = argparse.ArgumentParser(description=f"Segment images and videos with {model.name}.")
    add = parser.add_argument
    add("sources", nargs="+", metavar="SOURCE", help=SOURCES_HELP)
    add(
        "-o",
        "--output",
        type=Path,
        default=Path("predictions"),
        metavar="DIR",
        help="folder for what is written; predictions/ if not given",
    )
    others = ", another one of some classes" if defaults.by_class else ""
    add("--conf", type=share, metavar="0..1", help=f"least score; {defaults.conf:g} if not given{others}")
    add("--iou", type=share, metavar="0..1", help=f"overlap that makes two boxes one; {defaults.iou:g} if not given")
    add("--max-det", type=count, metavar="N", help=f"most detections an image; {defaults.max_det} if not given")
    add("--classes", type=words, metavar="NAMES", help="only these classes, by name or number, with commas between")
    add("--agnostic", action="store_true", default=None, help="boxes of different classes suppress each other, too")
    add(
        "--retina",
        action=argparse.BooleanOptionalAction,
        help="masks interpolated at the photograph's resolution (the default), or scaled from the network's frame",
    )
    add(
        "--save",
        type=kinds,
        action="extend",
        default=[],
        metavar="KINDS",
        help=f"write these as well, with commas between: {', '.join(SAVED)}",
    )
    add("--save-txt", action="append_const", dest="save", const="txt", help="the same as --save txt")
    add("--no-overlay", action="store_true", help="write no pictures and videos")
    add("--show", action="store_true", help="show annotated frames in a window; q, Escape or closing it ends")
    add(
        "--every",
        choices=("frame", "latest"),
        help="of cameras and streams: every frame, or the latest, dropping what there is no time for (the default)",
    )
    add("--stride", type=count, default=1, metavar="N", help="of videos, cameras and streams only each N-th frame")
    tiles, track = defaults.tiles or Tiling(), "the default" if defaults.track else "not followed if not given"
    usual = f"{tiles.size} if not given" if defaults.tiles else "not in tiles if not given"
    add("--tile", type=tile_side, metavar="PIXELS", help=f"see images in tiles of this side, 0: in none; {usual}")
    add(
        "--overlap",
        type=tile_overlap,
        metavar="0..0.9",
        help=f"share that tiles overlap; {tiles.overlap:g} if not given",
    )
    add("--tile-plus-whole", action=argparse.BooleanOptionalAction, help="see the whole image besides its tiles")
    add(
        "--mask-memory",
        type=count,
        metavar="MIB",
        help=f"most memory for the masks of one image, the worst beyond it are left out; {defaults.mask_memory}",
    )
    add(
        "--track",
        action=argparse.BooleanOptionalAction,
        help=f"follow objects from frame to frame; {track}; numbers start again with each video",
    )
    add("--model", type=Path, default=model, metavar="PATH", help="a model to run instead; from people you trust")
    where = f"where it runs: {', '.join(devices)}; {devices[0]} if not given"
    add("--device", "--provider", dest="device", metavar="NAME", help=where)
    add("--threads", type=count, metavar="N", help="threads of the runtime; it chooses if not given")
    options = parser.parse_args(arguments)
    if options.no_overlay and "overlay" in options.save:
        parser.error("--no-overlay and --save overlay exclude each other")
    return options


def kinds(text: str) -> list[str]:
    """Kinds of what can be written, with commas between."""
    found = words(text)
    if unknown := [word for word in found if word not in SAVED]:
        raise argparse.ArgumentTypeError(f"there is no {unknown[0]}; there are {', '.join(SAVED)}")
    return found


def share(text: str) -> float:
    """A number in 0..1."""
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 1")
    return value


def tile_side(text: str) -> int:
    """A side of tiles in pixels, or 0."""
    value = int(text)
    if value and not LEAST_TILE <= value <= LARGEST_SIDE:
        raise argparse.ArgumentTypeError(f"{text} is not between {LEAST_TILE} and {LARGEST_SIDE}, nor 0")
    return value


def tile_overlap(text: str) -> float:
    """A share that tiles may overlap."""
    value = float(text)
    if not 0 <= value <= MOST_OVERLAP:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and {MOST_OVERLAP:g}")
    return value


def words(text: str) -> list[str]:
    """What stands between commas."""
    found = [word.strip() for word in text.split(",") if word.strip()]
    if not found:
        raise argparse.ArgumentTypeError("it names nothing")
    return found


def count(text: str) -> int:
    """A whole number from 1 up."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return value


def run_command(
    arguments: Sequence[str] | None,
    model: Path,
    defaults: Filters,
    open_model: Callable[[Path, int, str | None], Model],
    devices: Sequence[str],
    install: str,
) -> int:
    """Run the program.

    Args:
        arguments: of the command line; None for the process's own.
        model: what is run unless --model names another.
        defaults: where the command line says nothing.
        open_model: opens a model, with so many threads, 0 for the runtime's choice, on a device, None for the first.
        devices: where the runtime can run it.
        install: the command that brings the packages.

    Returns:
        The exit status: 0 done, 1 an image or the model could not be read, 2 wrong usage.
    """
    options = read_arguments(arguments, model, defaults, devices)
    missing: list[SourceError] = []
    try:
        sources = find_sources(options.sources, missing.append)
        for problem in missing:
            print(printable(problem), file=sys.stderr)
        saved = {"json", "overlay", *options.save} - ({"overlay"} if options.no_overlay else set())
        plan = plan_files(sources, options.output, saved)
        reading = reading_of(sources, options.every, options.stride)
        shown = Window(options.model.name) if options.show else None
        with named_in_text(options.model) as place:
            opened = open_model(place, options.threads or 0, options.device)
        print(f"runs in {printable(opened.runtime)}", file=sys.stderr)
        filters = choose_filters(opened.metadata, vars(options), defaults)
        with shown or contextlib.nullcontext() as window:
            failures = predict_sources(
                sources,
                plan,
                opened.run,
                opened.metadata,
                filters,
                runtime=opened.runtime,
                told=partial(print, flush=True),
                failed=lambda error: print(printable(error), file=sys.stderr),
                reading=reading,
                window=window,
            )
    except (ModelError, FilterError) as error:
        print(printable(f"{options.model}: {error}"), file=sys.stderr)
        return 1
    except ModuleNotFoundError as error:
        print(f"{error.name} is missing: {install}", file=sys.stderr)
        return 1
    except (SourceError, ShowError, OSError) as error:
        print(printable(error), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 1 if failures or missing else 0
