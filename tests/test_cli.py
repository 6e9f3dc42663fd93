"""The command line starts at once, and turns what goes wrong into one clear message."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from segc import cli
from segc.cli import COMMANDS, root, run
from segc.commands.common import Output
from segc.diagnostics import SegcError, fail


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"\n  {name}" in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([name, "--help"]) == 0
    assert f"segc {name}" in capsys.readouterr().out


def test_a_mistyped_command_gets_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["valdate"]) == 2
    assert "Did you mean 'validate'?" in capsys.readouterr().err


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("segc ")


@pytest.mark.parametrize(
    ("raised", "status", "shown"),
    [
        (fail("F001", "no such thing", help="look elsewhere"), 1, "error[F001]: no such thing"),
        (OSError(errno.ENOSPC, "No space left on device", "some/file"), 1, "no space is left on the disk: some/file"),
        (PermissionError(errno.EACCES, "Permission denied", "some/file"), 1, "permission denied: some/file"),
        (ModuleNotFoundError("No module named 'onnxruntime'", name="onnxruntime"), 1, "pip install 'segc[onnx]'"),
        (ModuleNotFoundError("No module named 'torch.fx'", name="torch.fx"), 1, "pip install 'segc[train]'"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (click.UsageError("that is no option"), 2, "that is no option"),
    ],
)
def test_what_goes_wrong_ends_in_one_message(
    raised: BaseException, status: int, shown: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def explode(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(cli.root, "main", explode)
    assert run(["validate"]) == status
    printed = capsys.readouterr().err
    assert shown in printed
    assert "Traceback" not in printed


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def explode(*_: object, **__: object) -> None:
        raise ModuleNotFoundError("No module named 'segc.nothing'", name="segc.nothing")

    monkeypatch.setattr(cli.root, "main", explode)
    with pytest.raises(ModuleNotFoundError):
        run(["validate"])


def test_a_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "wb") as nowhere, (tmp_path / "err").open("wb") as errors:
        subprocess.run([sys.executable, "-m", "segc", "schema"], stdout=nowhere, stderr=errors, check=False)
    assert (tmp_path / "err").read_bytes() == b""


@pytest.mark.parametrize("name", COMMANDS)
def test_what_is_no_number_is_no_number_for_any_option(name: str) -> None:
    def commands(command: click.Command) -> Iterator[click.Command]:
        yield command
        for one in getattr(command, "commands", {}).values():
            yield from commands(one)

    command = root.get_command(click.Context(root), name)
    assert command is not None
    for one in commands(command):
        for option in one.params:
            if isinstance(option.type, click.types.FloatParamType):
                with pytest.raises(click.BadParameter, match="nan is not a number"):
                    option.type.convert("nan", option, None)


HEADS = {
    "page": b'<!doctype html><meta http-equiv="Content-Security-Policy" content="default-src \'none\'">',
    "JSON": b'{"a": 1}',
    "CSV": b"class,P,R\n",
    "photograph": b"\x89PNG\r\n\x1a\n\0\0, \0",
    "page of others": b"<!doctype html><title>mine</title>",
    "project": b"version: 1\nname: a, b\n",
}


@pytest.mark.parametrize("there", HEADS)
@pytest.mark.parametrize("kind", ["page", "JSON", "CSV"])
def test_what_a_command_writes_replaces_its_own_kind_alone(kind: str, there: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    output = Output(kind)
    assert output.convert(path, None, None) == path
    path.write_bytes(b"")
    assert output.convert(str(path), None, None) == path
    path.write_bytes(HEADS[there])
    if there == kind:
        assert output.convert(path, None, None) == path
        return
    with pytest.raises(SegcError, match="F005"):
        output.convert(path, None, None)
    with pytest.raises(SegcError, match="F002"):
        output.convert(tmp_path, None, None)


@pytest.mark.parametrize(
    ("command", "options"),
    [
        (["val"], ["--json", "--csv", "--report"]),
        (["bench"], ["--json", "--csv", "--report"]),
        (["runs", "compare", "a", "b"], ["--html"]),
    ],
)
def test_a_photograph_is_not_replaced(
    command: list[str], options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "photograph.png"
    path.write_bytes(HEADS["photograph"])
    for option in options:
        assert run([*command, option, str(path)]) == 1
        assert "F005" in capsys.readouterr().err
    assert path.read_bytes() == HEADS["photograph"]
