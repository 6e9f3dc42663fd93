import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segc import cli

Write = Callable[..., Path]


def test_a_valid_file_is_summarised_in_one_line(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert cli.run(["validate"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert out.startswith("project.yaml: valid: shapes, yolov8-seg n, nc 2, 3,264,006 parameters, ")
    assert out.endswith("GFLOPs at 320 x 320\n")


def test_errors_are_shown_counted_and_exit_with_1(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("epochs: 10", "epochs: ten")
    assert cli.run(["validate", "project.yaml"]) == 1
    out = capsys.readouterr().out
    assert "project.yaml:13:11: error[S103]" in out
    assert out.endswith("1 error\n")
    assert "\x1b" not in out


def test_warnings_exit_with_0(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("path: .", "path: nowhere")
    assert cli.run(["validate"]) == 0
    out = capsys.readouterr().out
    assert "warning[X212]" in out
    assert "valid: shapes" in out


def test_wrong_usage_exits_with_2() -> None:
    assert cli.run(["validate", "--format", "xml"]) == 2


def test_several_files_are_checked_at_once(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    Path("other.yaml").write_text("version: 1\n")
    assert cli.run(["validate", "project.yaml", "other.yaml", "none.yaml"]) == 1
    out = capsys.readouterr().out
    assert "project.yaml: valid" in out
    assert "other.yaml:1:1: error[S101]" in out
    assert "none.yaml: error[F001]" in out


def test_a_wrong_override_is_shown_once_for_all_files(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    path = write()
    Path("other.yaml").write_bytes(path.read_bytes())
    assert cli.run(["validate", "project.yaml", "other.yaml", "--set", "hyperparameters.epochs=0"]) == 1
    assert capsys.readouterr().out.count("S104") == 1


def test_overrides_count(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write()
    assert cli.run(["validate", "--set", "architecture.scale=x", "--set", "hyperparameters.imgsz=640"]) == 0
    assert "yolov8-seg x" in capsys.readouterr().out


def test_json_has_files_and_diagnostics(write: Write, capsys: pytest.CaptureFixture[str]) -> None:
    write("path: .", "path: nowhere")
    Path("other.yaml").write_text("a: [\n")
    assert cli.run(["validate", "project.yaml", "other.yaml", "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["version"] == 1
    good, bad = report["files"]
    assert bad == {"file": "other.yaml", "valid": False}
    assert set(good) == {
        *("file", "valid", "name", "family", "scale", "nc", "imgsz", "parameters", "flops", "spec_digest")
    }
    assert good["parameters"] == 3_264_006
    assert good["imgsz"] == [320, 320]
    warning, error = sorted(report["diagnostics"], key=lambda d: d["severity"], reverse=True)
    assert (warning["code"], warning["line"], warning["column"]) == ("X212", 7, 9)
    assert (error["code"], error["file"], error["snippet"]) == ("Y002", "other.yaml", "a: [")


@pytest.mark.parametrize(
    "scale",
    [
        "n",
        "s",
        "m",
        "l",
        "x",
        "{depth: 4, width: 4, max_channels: 8192}",
        "{depth: 1e-9, width: 1e-9, max_channels: 8}",
    ],
)
def test_every_legal_scale_has_a_network(write: Write, scale: str) -> None:
    write("scale: n", f"scale: {scale}")
    assert cli.run(["validate"]) == 0


def test_no_framework_is_imported(write: Write) -> None:
    write()
    code = (
        "import sys; from segc import cli; status = cli.run(['validate']); "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'onnx_graphsurgeon', 'cv2', 'numpy', 'jinja2', 'rich') "
        "if m in sys.modules]); sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_no_bad_path_ends_in_a_traceback(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "binary.yaml").write_bytes(bytes(range(256)))
    (folder / "empty.yaml").write_bytes(b"")
    (folder / "link.yaml").symlink_to("link.yaml")
    for name in ("binary.yaml", "empty.yaml", "link.yaml", "images", "none.yaml", "binary.yaml/x", "", "x" * 300):
        assert cli.run(["validate", name]) == 1
        out = capsys.readouterr().out
        assert out.count("error[") == 1
