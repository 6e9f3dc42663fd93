"""``segc weights``: import another project's checkpoint, look into a weights file."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from segc.weights.importing import Imported

_FILE = click.Path(path_type=Path)


@click.group()
def command() -> None:
    """Import and inspect weights."""


@command.command("import")
@click.argument("file", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="What to write; FILE's name with .safetensors, here, if not given.")
@click.option("--project", type=_FILE, help="The project they are for; otherwise told from the shapes.")
@click.option("--verbose", "-v", is_flag=True, help="Show every key.")
@click.option("--json", "as_json", is_flag=True, help="Show the account as JSON, every key included.")
def import_command(file: Path, output: Path | None, project: Path | None, *, verbose: bool, as_json: bool) -> None:
    """Convert a PyTorch checkpoint to safetensors.

    FILE is another project's .pt or .pth, as torch.save (1.6 or newer) writes it: a state dict or a whole module.
    Nothing in the checkpoint is run: its pickle is read as data, against a list of what weights are made of.
    """
    from segc.weights.importing import import_weights

    imported = import_weights(file, output or Path(f"{file.stem}.safetensors"), project)
    if as_json:
        click.echo(json.dumps(imported.to_json(), indent=2, ensure_ascii=False))
        return
    for line in _account(imported, verbose=verbose):
        click.echo(line)


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
    lines += [f"note: {note}" for note in (*imported.notes, *result.notes)]
    lines.append(f"written to {imported.output} ({len(imported.written)} tensors)")
    return lines


@command.command("show")
@click.argument("file", type=_FILE)
@click.option("--json", "as_json", is_flag=True, help="Show it as JSON.")
def show_command(file: Path, *, as_json: bool) -> None:
    """List tensors and metadata of a weights file.

    FILE is a .safetensors, or another project's .pt or .pth.
    """
    from math import prod

    from segc.weights.importing import describe

    tensors, metadata = describe(file)
    total = sum(prod(tensor.shape) for tensor in tensors)
    if as_json:
        value: dict[str, Any] = {
            "file": str(file),
            "metadata": metadata,
            "tensors": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in tensors],
        }
        click.echo(json.dumps(value, indent=2, ensure_ascii=False))
        return
    width = max((len(tensor.name) for tensor in tensors), default=0)
    for tensor in tensors:
        click.echo(_printable(f"{tensor.name:<{width}}  {tensor.dtype:<4}  {list(tensor.shape)}"))
    for key, text in sorted(metadata.items()):
        click.echo(_printable(f"{key}: {text}"))
    click.echo(f"{len(tensors)} tensors, {total:,} numbers")


def _printable(text: str) -> str:
    """One line that cannot move the terminal's cursor or colour it."""
    return "".join(character if character.isprintable() else "\ufffd" for character in text)
