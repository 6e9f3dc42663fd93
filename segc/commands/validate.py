"""``segc validate``: check project files, and say what they describe, without importing any framework."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segc.commands.common import set_option

if TYPE_CHECKING:
    from segc.diagnostics import Diagnostic
    from segc.spec.load import LoadedProject


@click.command()
@click.argument("projects", type=click.Path(path_type=Path), nargs=-1, metavar="[PROJECT]...")
@set_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="Form of the output.",
)
@click.option("--data", "with_data", is_flag=True, help="Read every image and label of the datasets, too.")
@click.pass_context
def command(
    context: click.Context, projects: tuple[Path, ...], overrides: tuple[str, ...], form: str, with_data: bool
) -> None:
    """Check PROJECT files, by default project.yaml: exit 0 where all are valid, 1 where one is not.

    Everything that is wrong is shown at once, with its place. --set applies to every file.

    With --format json one object is printed: {"version": 1, "files": [...], "diagnostics": [...]}. A file has `file`
    and `valid`, and where it is valid `name`, `family`, `scale`, `nc`, `imgsz` [height, width], `parameters`, `flops`
    (a multiply-add counts as two) and `spec_digest`; with --data also `data`, for `train` and `val` the numbers of
    `images`, `objects`, `crowds` and images without objects, `empty`, and `faults`, their number by code.

    A diagnostic has `code`, `title`, `severity` (error or warning),
    `message`, `file`, `line` and `column` from 1, `length` in characters, `argument` (the --set it is about, in place
    of a file), `snippet` (the line) and `help`; what is not known is null.
    """
    from segc.spec.load import check_project

    checked = [(path, *check_project(path, overrides)) for path in projects or (Path("project.yaml"),)]
    # An override that is wrong is wrong for every file: it is shown once.
    diagnostics = tuple(dict.fromkeys(d for _, _, found in checked for d in found))
    summaries = [(path, None if loaded is None else _summary(loaded)) for path, loaded, _ in checked]
    sound = all(summary is not None for _, summary in summaries)
    if with_data:
        for (_, loaded, _), (_, summary) in zip(checked, summaries, strict=True):
            if loaded is not None and summary is not None:
                summary["data"], faults = _data_summary(loaded)
                diagnostics += faults
                sound = sound and not any(one.severity == "error" for one in faults)
    show = _show_json if form == "json" else _show_text
    show(summaries, diagnostics)
    if not sound:
        context.exit(1)


def _summary(loaded: "LoadedProject") -> dict[str, Any]:
    from segc.architectures import build_graph
    from segc.graph.cost import cost
    from segc.spec.project import resolved, spec_digest

    project = loaded.project
    size = project.hyperparameters.size
    total = cost(build_graph(project.architecture, project.dataset.nc, size))
    return {
        "name": project.name,
        "family": project.architecture.family,
        "scale": resolved(project)["architecture"]["scale"],
        "nc": project.dataset.nc,
        "imgsz": list(size),
        "parameters": total.parameters,
        "flops": total.flops,
        "spec_digest": spec_digest(project),
    }


def _data_summary(loaded: "LoadedProject") -> tuple[dict[Any, Any], tuple["Diagnostic", ...]]:
    """What is in the splits of a dataset, and what is wrong with it."""
    from segc.commands.common import image_bar
    from segc.data.check import check_dataset

    with ExitStack() as bars:
        found = check_dataset(loaded, lambda split: bars.enter_context(image_bar(f"checking {split}")))
    splits = {split: {**checked.to_json(), "summary": checked.contents.summary()} for split, checked in found.items()}
    return splits, tuple(one for checked in found.values() for one in checked.diagnostics)


def _show_json(summaries: list[tuple[Path, dict[str, Any] | None]], diagnostics: tuple["Diagnostic", ...]) -> None:
    from segc.diagnostics import to_dict

    files = [{"file": str(path), "valid": summary is not None, **(summary or {})} for path, summary in summaries]
    report = {"version": 1, "files": files, "diagnostics": [to_dict(diagnostic) for diagnostic in diagnostics]}
    click.echo(json.dumps(report, indent=2, ensure_ascii=True))


def _show_text(summaries: list[tuple[Path, dict[str, Any] | None]], diagnostics: tuple["Diagnostic", ...]) -> None:
    import sys

    from segc.diagnostics import render_text, wants_colour

    if diagnostics:
        click.echo(render_text(diagnostics, colour=wants_colour(sys.stdout)))
    for path, summary in summaries:
        if summary is not None:
            scale = summary["scale"] if isinstance(summary["scale"], str) else "custom"
            height, width = summary["imgsz"]
            click.echo(
                f"{path}: valid: {summary['name']}, {summary['family']} {scale}, nc {summary['nc']}, "
                f"{summary['parameters']:,} parameters, {summary['flops'] / 1e9:.1f} GFLOPs at {height} x {width}"
            )
            for split, data in summary.get("data", {}).items():
                click.echo(f"  {split}: {_contents(data)}")
    errors = sum(diagnostic.severity == "error" for diagnostic in diagnostics)
    if errors:
        click.echo(f"{errors} {'error' if errors == 1 else 'errors'}")


def _contents(data: dict[str, Any]) -> str:
    """What is in a split, in words."""
    from segc.diagnostics import CODES

    def listed(kind: str) -> str:
        counted = ", ".join(f"{count} x {code} {CODES[code]}" for code, count in data[kind].items())
        return f"; {kind}: {counted}" if counted else ""

    return str(data["summary"]) + listed("faults") + listed("remarks")
