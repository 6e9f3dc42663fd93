"""``segc validate``: check project files, and say what they describe, without importing any framework."""

import glob
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from segc.commands.common import say, set_option
from segc.diagnostics import Diagnostic

if TYPE_CHECKING:
    from segc.spec.load import LoadedProject

_STANDARD_INPUT = "-"


@click.command()
@click.argument("projects", nargs=-1, metavar="[PROJECT]...")
@set_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif", "github"]),
    default="text",
    show_default=True,
    help="Form of the output.",
)
@click.option("--data", "with_data", is_flag=True, help="Read every image and label of the datasets, too.")
@click.option("--no-paths", is_flag=True, help="Check the spec alone: its data and weights need not be there.")
@click.option("--fix", is_flag=True, help="Make the edits that are safe, and show them; comments stay.")
@click.pass_context
def command(
    context: click.Context,
    projects: tuple[str, ...],
    overrides: tuple[str, ...],
    form: str,
    with_data: bool,
    no_paths: bool,
    fix: bool,
) -> None:
    """Check PROJECT files, by default project.yaml: exit 0 where all are valid, 1 where one is not.

    A PROJECT is a file, a pattern, a folder with a project.yaml in it, or - for standard input. Everything that is
    wrong is shown at once, with its place; what happens often is shown once, with its number. --set applies to every
    file. Data and weights that are not there are errors; --no-paths leaves them out, for machines without the data.

    With --format json one object is printed: {"version": 1, "files": [...], "diagnostics": [...]}. A file has `file`
    and `valid`, and where the spec itself is sound `name`, `family`, `scale`, `nc`, `imgsz` [height, width],
    `parameters`, `flops` (a multiply-add counts as two), `spec_digest`, `paths` (whether they were checked) and,
    where it starts from weights, `weights`: `source`, `address` and published `licence` of what is fetched at first
    use, `file` where it is there; with
    --data also `data`, for `train` and `val` the numbers of `images`, `objects`, `crowds`, `boxes`, images without
    objects, `empty`, those of them without a label file, `unlabelled`, objects by class, `classes`, a `summary`, and
    `faults` and `remarks`, errors and warnings by code.

    A diagnostic has `code`, `title`, `severity` (error or warning), `message`, `file`, `line` and `column` from 1,
    `length` in characters, `argument` (the --set it is about, in place of a file), `snippet` (the line), `help`,
    `count` and `examples` (where it stands for several of its kind, the next ones); what is not known is null.

    sarif is SARIF 2.1.0, github are the annotations of GitHub's workflows.
    """
    if no_paths and with_data:
        raise click.UsageError("--data reads what --no-paths leaves out")
    if fix and (_STANDARD_INPUT in projects or overrides):
        raise click.UsageError("--fix edits files, as they are")
    found = list(_found(projects or ("project.yaml",)))
    if fix:
        for path in found:
            if isinstance(path, Path):
                _fix(path, echo_to_error=form != "text")
    checked = [_check(path, overrides, no_paths=no_paths, with_data=with_data) for path in found]
    # An override that is wrong is wrong for every file: it is shown once.
    diagnostics = tuple(dict.fromkeys(one for each in checked for one in each.diagnostics))
    _show(form, checked, diagnostics)
    if not all(each.sound for each in checked):
        context.exit(1)


@dataclass
class _Checked:
    """A file, what is wrong with it, and what it describes."""

    name: str
    diagnostics: "tuple[Diagnostic, ...]"
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def sound(self) -> bool:
        return not any(one.severity == "error" for one in self.diagnostics)


def _found(projects: Sequence[str]) -> "Iterator[Path | Diagnostic | None]":
    """The files that arguments name; None for standard input, a diagnostic for a pattern without a file."""
    for project in dict.fromkeys(projects):
        path = Path(project)
        if project == _STANDARD_INPUT:
            yield None
        elif glob.has_magic(project) and not os.path.lexists(path):
            matching = sorted(glob.glob(project, recursive=True))  # noqa: PTH207 - knows ** and absolute patterns
            yield from map(Path, matching)
            if not matching:
                yield Diagnostic("F001", "no file matches this pattern", file=path)
        else:
            inside = path / "project.yaml"
            yield inside if project and os.path.isfile(inside) else path  # noqa: PTH113 - also for impossible names


def _check(
    path: "Path | Diagnostic | None", overrides: tuple[str, ...], *, no_paths: bool, with_data: bool
) -> _Checked:
    from segc.spec.load import PATH_CODES, check_project, check_text

    if path is not None and not isinstance(path, Path):
        return _Checked(str(path.file), (path,))
    name = _STANDARD_INPUT if path is None else str(path)
    if path is None:
        if sys.stdin is None:
            return _Checked(name, (Diagnostic("F001", "standard input is closed"),))
        loaded, found = check_text(sys.stdin.read(), Path(_STANDARD_INPUT), overrides)
    else:
        loaded, found = check_project(path, overrides)
    if loaded is None:
        return _Checked(name, found)
    if no_paths:
        found = tuple(one for one in found if one.code not in (*PATH_CODES, "X222"))
    else:
        found = tuple(replace(one, severity="error") if one.code in PATH_CODES else one for one in found)
    checked = _Checked(name, found, {**_summary(loaded), "paths": not no_paths})
    if with_data and checked.sound:
        checked.summary["data"], faults = _data_summary(loaded)
        checked.diagnostics += faults
    return checked


def _fix(path: Path, *, echo_to_error: bool) -> None:
    """Make the safe edits in a file, and show them."""
    from segc.spec.fix import fix_file

    difference = fix_file(path)
    if difference:
        for line in difference.split("\n"):
            say(line, err=echo_to_error)


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
        **_weights_summary(loaded),
    }


def _weights_summary(loaded: "LoadedProject") -> dict[str, Any]:
    """What is to be said of weights to start from; validation fetches nothing."""
    if loaded.project.architecture.weights is None:
        return {}
    from segc.weights.starting import start_facts

    return {"weights": start_facts(loaded, loaded.build_dir)}


def _data_summary(loaded: "LoadedProject") -> tuple[dict[Any, Any], tuple["Diagnostic", ...]]:
    """What is in the splits of a dataset, and what is wrong with it."""
    from segc.commands.common import image_bar
    from segc.data.check import check_dataset

    with ExitStack() as bars:
        found = check_dataset(loaded, lambda split: bars.enter_context(image_bar(f"checking {split}")))
    splits = {split: {**checked.to_json(), "summary": checked.contents.summary()} for split, checked in found.items()}
    return splits, tuple(one for checked in found.values() for one in checked.diagnostics)


def _show(form: str, checked: list[_Checked], diagnostics: tuple["Diagnostic", ...]) -> None:
    from segc.diagnostics import Findings, to_dict

    if form == "json":
        files = [{"file": each.name, "valid": each.sound, **each.summary} for each in checked]
        report = {"version": 1, "files": files, "diagnostics": [to_dict(one) for one in diagnostics]}
        click.echo(json.dumps(report, indent=2, ensure_ascii=True))
    elif form == "sarif":
        from segc.outputs import to_sarif

        click.echo(json.dumps(to_sarif(diagnostics), indent=2, ensure_ascii=True))
    elif form == "github":
        from segc.outputs import to_github

        click.echo(to_github(Findings(diagnostics)), nl=False)
    else:
        _show_text(checked, tuple(Findings(diagnostics)))


def _show_text(checked: list[_Checked], diagnostics: tuple["Diagnostic", ...]) -> None:
    from segc.diagnostics import render_text, wants_colour

    if diagnostics:
        click.echo(render_text(diagnostics, colour=wants_colour(sys.stdout)))
    for each in checked:
        if each.summary:
            say(f"{each.name}: {_verdict(each)}: {_described(each.summary)}")
            if "weights" in each.summary:
                from segc.weights.starting import told

                say(f"  {told(each.summary['weights'])}")
            for split, data in each.summary.get("data", {}).items():
                click.echo(f"  {split}: {_contents(data)}")
    errors = sum(one.count for one in diagnostics if one.severity == "error")
    if errors:
        click.echo(f"{errors} {'error' if errors == 1 else 'errors'}")


def _verdict(each: _Checked) -> str:
    if not each.sound:
        return "the spec is sound, what it names is not"
    return "valid" if each.summary["paths"] else "valid as far as the spec goes (paths are not checked)"


def _described(summary: dict[str, Any]) -> str:
    """What a project describes, in words."""
    scale = summary["scale"] if isinstance(summary["scale"], str) else "custom"
    height, width = summary["imgsz"]
    return (
        f"{summary['name']}, {summary['family']} {scale}, nc {summary['nc']}, "
        f"{summary['parameters']:,} parameters, {summary['flops'] / 1e9:.1f} GFLOPs at {height} x {width}"
    )


def _contents(data: dict[str, Any]) -> str:
    """What is in a split, in words."""
    from segc.diagnostics import CODES

    def listed(kind: str) -> str:
        counted = ", ".join(f"{count} x {code} {CODES[code]}" for code, count in data[kind].items())
        return f"; {kind}: {counted}" if counted else ""

    return str(data["summary"]) + listed("faults") + listed("remarks")
