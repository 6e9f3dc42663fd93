"""``segc weights``: published weights and the cache, import and export, what a file holds and descends from."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segc.commands.common import Number, WeightsFile, build_dir_option, build_folder, console, say, set_option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from segc.architectures.published import Published
    from segc.spec.weights import WeightsReference
    from segc.weights.cache import Entry
    from segc.weights.export import Layout
    from segc.weights.importing import Imported
    from segc.weights.lineage import Lineage

_FILE = click.Path(path_type=Path)
_json_option = click.option("--json", "as_json", is_flag=True, help="Show it as JSON.")


@click.group()
def command() -> None:
    """Fetch published weights, import, inspect and export weights."""


# -- published weights and the cache


@command.command("list")
@_json_option
def list_command(*, as_json: bool) -> None:
    """List published weights by name, and what else is in the cache."""
    from rich.table import Table

    from segc.architectures.published import BY_ADDRESS, PUBLISHED
    from segc.spec.weights import parse_reference
    from segc.weights.cache import entries, origin_of
    from segc.weights.fetching import entry_of

    rows = [(row, entry_of(parse_reference(row.name)).origin()) for row in PUBLISHED.values()]
    others = [o for entry in entries() if (o := origin_of(entry.file)) and o.address not in BY_ADDRESS]
    if as_json:
        published = [{**_row_json(row), "cached": origin is not None} for row, origin in rows]
        other = [{"address": o.address, "size": o.size, "sha256": o.sha256} for o in others]
        _print_json({"published": published, "others": other})
        return
    table = Table("name", "family", "scale", "MB", "licence", "box AP", "mask AP", "cached", box=None, pad_edge=False)
    for row, origin in rows:
        size = origin.size if origin else row.size
        table.add_row(
            *(row.name, row.family, row.scale, f"{size / 1e6:.1f}" if size else "-", row.licence),
            *(f"{row.box_ap:.1f}", f"{row.mask_ap:.1f}", "yes" if origin else "no"),
        )
    console(stderr=False, width=200).print(table)
    for figures in sorted({f"AP on {row.data} at {row.side} px, by {row.source}" for row, _ in rows}):
        click.echo(figures)
    for other_origin in others:
        say(f"cached: {other_origin.address}, {other_origin.size / 1e6:.1f} MB")


def _row_json(row: "Published") -> dict[str, Any]:
    from dataclasses import asdict

    return {**asdict(row), "sha256": row.sha256 or None}


@command.command("fetch")
@click.argument("names", nargs=-1, metavar="[WEIGHTS]...")
@click.option("--project", type=_FILE, help="Fetch what this project starts from, and hold it fast in its lock.")
@click.option(
    "--time-limit",
    type=Number(1, 86400),
    default=1800,
    show_default=True,
    metavar="SECONDS",
    help="Time that each file may take.",
)
@set_option
@build_dir_option
@_json_option
def fetch_command(
    names: tuple[str, ...],
    project: Path | None,
    time_limit: float,
    overrides: tuple[str, ...],
    build_dir: Path | None,
    *,
    as_json: bool,
) -> None:
    """Fetch weights into the cache, where they are not there yet.

    WEIGHTS are names that `segc weights list` shows, or addresses: https://…, hf://owner/repository/file.

    SEGC_CACHE is the cache's folder; SEGC_OFFLINE=1 forbids the network; SEGC_WEIGHTS_URL is a mirror of published
    files, https://… or a folder, file:///….
    """
    from segc.weights.cache import origin_of
    from segc.weights.fetching import fetch
    from segc.weights.starting import starting_file

    if bool(names) == (project is not None):
        raise click.UsageError("give names or addresses, or else --project")
    if project is None:
        files = [fetch(_reference(name), seconds=time_limit) for name in names]
    else:
        from segc.diagnostics import fail
        from segc.spec.load import load_project

        loaded = load_project(project, overrides)
        file = starting_file(loaded, build_folder(loaded, build_dir), seconds=time_limit)
        if file is None:
            raise fail("W008", "the project starts from no weights", file=loaded.path, help="set architecture.weights")
        files = [file]
    origins = [(file, origin_of(file)) for file in files]
    if as_json:
        _print_json([{"file": str(file), "sha256": o.sha256 if o else None} for file, o in origins])
        return
    for file, _ in origins:
        say(f"{file}")


def _reference(text: str) -> "WeightsReference":
    """What is to be fetched."""
    from segc.diagnostics import fail
    from segc.spec.weights import NoReferenceError, parse_reference

    try:
        reference = parse_reference(text)
    except NoReferenceError as error:
        raise fail("X207", error.message, help=error.way_out) from None
    if reference.address is None:
        raise fail("X207", f"`{text}` is a file: there is nothing to fetch", help="`segc weights list` shows the names")
    return reference


@command.command("verify")
@click.argument("names", nargs=-1, metavar="[WEIGHTS]...")
@_json_option
@click.pass_context
def verify_command(context: click.Context, names: tuple[str, ...], *, as_json: bool) -> None:
    """Check files of the cache against their digests.

    All of them are read again if none is named. The exit status is 1 where one is damaged or missing.
    """
    found = []
    for entry in _entries(names):
        origin = entry.origin()
        broken_off = f"broke off after {entry.size() / 1e6:.1f} MB" if entry.part.exists() else "not in the cache"
        state = broken_off if origin is None else _state(entry, origin.address, origin.sha256)
        found.append({"address": origin.address if origin else entry.name, "state": state})
    if as_json:
        _print_json(found)
    else:
        for one in found:
            say(f"{one['state']}: {one['address']}")
        if not found:
            click.echo("the cache holds no weights")
    if any(one["state"] != "sound" for one in found):
        context.exit(1)


def _state(entry: "Entry", address: str, sha256: str) -> str:
    from segc.architectures.published import BY_ADDRESS

    row = BY_ADDRESS.get(address)
    if not entry.sound():
        return "damaged"
    return "sound" if row is None or sha256.startswith(row.sha256) else "not the published file"


def _entries(names: "Sequence[str]") -> "list[Entry]":
    """Entries of the cache: those named, or all that hold something."""
    from segc.weights.cache import entries
    from segc.weights.fetching import entry_of

    return [entry_of(_reference(name)) for name in names] if names else entries()


@command.command("prune")
@click.argument("names", nargs=-1, metavar="[WEIGHTS]...")
@click.option("--all", "everything", is_flag=True, help="Remove all weights from the cache.")
@_json_option
def prune_command(names: tuple[str, ...], *, everything: bool, as_json: bool) -> None:
    """Remove weights from the cache.

    Those named, or all, or else what is damaged or broke off. What a process is fetching is left alone.
    """
    if names and everything:
        raise click.UsageError("--all is everything: give no names with it")
    found = [_prune(entry, whole=bool(names) or everything) for entry in _entries(names)]
    if as_json:
        _print_json(found)
        return
    for one in found:
        say(f"{one['state']}: {one['file']}")
    click.echo(f"{sum(one['freed'] for one in found) / 1e6:.1f} MB freed")


def _prune(entry: "Entry", *, whole: bool) -> dict[str, Any]:
    """Remove an entry, or what is left in it of a download that broke off; gives what became of it, and bytes freed."""
    before = entry.size()
    if not before:
        return {"file": entry.name, "state": "not in the cache", "freed": 0}
    try:
        with entry.lock(0):
            remove = whole or not entry.sound()
            if remove:
                entry.remove()
            else:
                entry.drop_part()
    except TimeoutError:
        return {"file": entry.name, "state": "left, a process is fetching it", "freed": 0}
    return {"file": entry.name, "state": "removed" if remove else "kept", "freed": before - entry.size()}


# -- import and export


@command.command("import")
@click.argument("file", type=WeightsFile(), metavar="WEIGHTS")
@click.option("-o", "--output", type=_FILE, help="What to write; the file's name with .safetensors, here, by default.")
@click.option("--project", type=_FILE, help="The project they are for; otherwise told from the shapes.")
@click.option("--verbose", "-v", is_flag=True, help="Show every key.")
@click.option("--json", "as_json", is_flag=True, help="Show the account as JSON, every key included.")
def import_command(file: Path, output: Path | None, project: Path | None, *, verbose: bool, as_json: bool) -> None:
    """Convert a PyTorch checkpoint to safetensors.

    WEIGHTS are another project's file, as torch.save (1.6 or newer) writes it, a state dict or a whole module; or a
    published name, or an address. Nothing in the checkpoint is run: its pickle is read as data, against a list of what
    weights are made of.
    """
    from segc.weights.importing import import_weights

    imported = import_weights(file, output or Path(f"{file.stem}.safetensors"), project)
    if as_json:
        _print_json(imported.to_json())
        return
    for line in _account(imported, verbose=verbose):
        say(line)


def _account(imported: "Imported", *, verbose: bool) -> list[str]:
    result, metadata = imported.result, imported.metadata
    lines = [f"{imported.file}: {metadata['producer']}" if "producer" in metadata else str(imported.file)]
    if "license" in metadata:
        lines.append(f"licence: {metadata['license']} (it goes with the weights, and is kept in the file's metadata)")
    how = "as the project has it" if imported.project else "told from the shapes"
    lines.append(f"network: {metadata['family']}, scale {metadata['scale']}, {metadata['nc']} classes; {how}")
    kinds: list[tuple[str, str, list[str]]] = [
        ("matched", "taken as they are", list(result.matched)),
        (
            "reshaped",
            "of another shape or order",
            [
                f"{entry.name}  {list(entry.shape)}, wanted {list(entry.wanted)}: {entry.taken or 'not taken'}"
                for entry in result.reshaped
            ],
        ),
        ("missing", "not in the file", list(result.missing)),
        ("filled", "not in the file, set as the network defines them", list(result.filled)),
        ("unused", "in the file, not in the network", list(result.unused)),
    ]
    for kind, meaning, keys in kinds:
        lines.append(f"  {kind:<9}{len(keys):>5}  {meaning}")
        shown = keys if verbose else keys[:3] * (kind != "matched")
        lines += [f"             {key}" for key in shown]
        if shown and len(shown) < len(keys):
            lines.append(f"             … {len(keys) - len(shown)} more (--verbose shows all)")
    lines.append(f"tensors taken: {result.taken_of_parts()}")
    lines += [f"note: {note}" for note in (*imported.notes, *result.notes)]
    lines.append(f"written to {imported.output} ({len(imported.written)} tensors)")
    return lines


@command.command("export")
@click.argument("weights", required=False)
@click.option("-o", "--output", type=_FILE, required=True, metavar="FILE", help="The file to write: .pt or .pth.")
@click.option(
    "--layout",
    type=click.Choice(["state-dict", "checkpoint"]),
    default="state-dict",
    show_default=True,
    help="The state dict alone, or a dictionary with it under `model`, and class names, licence and descent beside it.",
)
@click.option("--half", is_flag=True, help="Numbers in fp16: half the file.")
@click.option(
    "--project", type=_FILE, default=Path("project.yaml"), help="The project whose trained weights are taken."
)
@build_dir_option
def export_command(
    weights: str | None, output: Path, layout: "Layout", project: Path, build_dir: Path | None, *, half: bool
) -> None:
    """Write weights as a PyTorch file that other tools load.

    WEIGHTS are a file, a published name or an address; the project's trained weights if not given. Names and shapes of
    the tensors are the family's own, so that load_state_dict takes them, strictly.
    """
    from segc.weights.export import export_weights
    from segc.weights.resolve import choose_weights
    from segc.weights.starting import weights_file

    if weights is None:
        from segc.spec.load import load_project

        loaded = load_project(project)
        source = choose_weights(loaded, build_folder(loaded, build_dir)).path
    else:
        source = weights_file(weights)
    exported = export_weights(source, output, layout=layout, half=half)
    for line in exported.lines():
        say(line)


# -- what is in a file, and where it comes from


@command.command("show")
@click.argument("file", metavar="WEIGHTS")
@_json_option
def show_command(file: str, *, as_json: bool) -> None:
    """Show what a weights file holds, or what is published.

    WEIGHTS is a .safetensors or another project's checkpoint, or a name that `segc weights list` shows; nothing is
    fetched.
    """
    from math import prod

    from segc.weights.importing import describe

    path, row = _standing(file)
    tensors, metadata = ((), {}) if row and not path.is_file() else describe(path)
    total = sum(prod(tensor.shape) for tensor in tensors)
    if as_json:
        _print_json(
            {
                "file": str(path),
                **({"published": _row_json(row)} if row else {}),
                "metadata": metadata,
                "tensors": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in tensors],
            }
        )
        return
    if row:
        for key, value in _row_json(row).items():
            say(f"{key}: {'not published' if value is None else value}")
        say(f"file: {path}" if tensors else "not in the cache")
    width = max((len(tensor.name) for tensor in tensors), default=0)
    for tensor in tensors:
        say(f"{tensor.name:<{width}}  {tensor.dtype:<4}  {list(tensor.shape)}")
    for key, text in sorted(metadata.items()):
        say(f"{key}: {text}")
    if tensors or not row:
        click.echo(f"{len(tensors)} tensors, {total:,} numbers")


def _standing(text: str) -> "tuple[Path, Published | None]":
    """The file of weights, where it is there, and the row of what is published, unless a file of that name is meant."""
    from segc.spec.weights import NoReferenceError, parse_reference
    from segc.weights.fetching import cached

    try:
        reference = parse_reference(text)
    except NoReferenceError:
        return Path(text), None
    if reference.address is None or reference.file(Path()) is not None:
        return reference.file(Path()) or Path(text), None
    return cached(reference) or Path(text), reference.published


@command.command("licence")
@click.argument("file", metavar="WEIGHTS|ARTIFACT")
@_json_option
def licence_command(file: str, *, as_json: bool) -> None:
    """Show what weights descend from, and their licences.

    WEIGHTS is a file, or a published name that is in the cache; ARTIFACT an artifact's folder, or the model in it. What
    is shown is what the files say themselves, and what was published with them.
    """
    from segc.weights.lineage import licences, to_json

    found = _lineage(file)
    if as_json:
        _print_json({"file": file, "lineage": to_json(found), "licences": licences(found)})
        return
    for line in _chain(found):
        say(line)
    say(f"licences: {', '.join(licences(found)) or 'none is inherited'}")


def _lineage(text: str) -> "Lineage":
    """The chain of a weights file, of an artifact, or of published weights that are in the cache."""
    from segc.diagnostics import fail
    from segc.targets.description import DESCRIPTION, read_description
    from segc.weights.fetching import cached
    from segc.weights.lineage import KEY, UNKNOWN, from_json
    from segc.weights.reading import lineage_of

    path = Path(text)
    folder = next((folder for folder in (path, path.parent) if (folder / DESCRIPTION).is_file()), None)
    if folder is not None and path.exists():
        known = from_json(read_description(folder).weights.get(KEY))
        return UNKNOWN if known is None else known
    if path.exists():
        return lineage_of(path)
    reference = _reference(text)
    file = cached(reference)
    if file is None:
        raise fail("W013", f"{reference.shown} is not in the cache", help=f"segc weights fetch {text}")
    return lineage_of(file)


def _chain(lineage: "Lineage") -> list[str]:
    lines = []
    for number, link in enumerate(lineage, 1):
        digest = f", sha256:{link.sha256}" if link.sha256 else ""
        if link.kind == "training":
            by = f", segc {link.segc_version}" if link.segc_version else ""
            lines.append(f"{number}  training of {link.name}{by}{digest}")
        else:
            lines.append(f"{number}  weights {link.name}{digest}")
            lines += [f"   from {link.address}"] if link.address else []
            lines += [f"   made by {link.producer}"] if link.producer else []
            lines.append(f"   licence: {link.licence or 'the file does not say'}")
            lines += [f"   published with the licence {link.published}"] if link.published else []
    return lines or ["from a seed: they descend from no others"]


def _print_json(value: Any) -> None:
    click.echo(json.dumps(value, indent=2))
