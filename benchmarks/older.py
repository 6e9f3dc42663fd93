"""What models that this environment made find in another one, with older runtimes or another Python.

    python benchmarks/older.py BUILD PHOTOGRAPHS --python OTHER/bin/python

Every predict script of a build directory runs once with this interpreter and once with the other one. A line an
artifact: detections of both, and how far scores and boxes (in pixels) of those at one place in the list lie apart.
Status 1 where a script that runs here fails there, or the numbers of detections differ.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path


def found(interpreter: str, script: Path, photographs: Path, folder: Path) -> list[dict] | str:
    """Detections of all photographs in their order, or the last line of what the script said when it failed."""
    command = [interpreter, script, photographs, "--no-overlay", "--output", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        return (done.stderr.strip() or f"exit status {done.returncode}").splitlines()[-1]
    images = json.loads((folder / "predictions.json").read_text(encoding="utf-8"))
    return [one for image in images for one in image["detections"]]


def row(here: list[dict] | str, there: list[dict] | str) -> dict:
    """A line of the table."""
    if isinstance(here, str):
        return {"not run": here}
    if isinstance(there, str):
        return {"failed": there}
    pairs = list(zip(here, there, strict=False))
    scores = [abs(a["score"] - b["score"]) for a, b in pairs]
    boxes = [abs(x - y) for a, b in pairs for x, y in zip(a["box"], b["box"], strict=True)]
    return {
        "detections": [len(here), len(there)],
        "score": round(max(scores, default=0.0), 5),
        "box": round(max(boxes, default=0.0), 2),
    }


def main() -> int:
    """Run everything, and print a line an artifact."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", type=Path)
    parser.add_argument("photographs", type=Path)
    parser.add_argument("--python", required=True, help="the other interpreter")
    arguments = parser.parse_args()
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for script in sorted(arguments.build.glob("artifacts/*/predict.py")):
            sides = [
                found(interpreter, script, arguments.photographs, Path(folder) / script.parent.name / side)
                for side, interpreter in (("here", sys.executable), ("there", arguments.python))
            ]
            rows[script.parent.name] = row(*sides)
            print(script.parent.name, json.dumps(rows[script.parent.name]), flush=True)
    return int(any("failed" in one or len({*one.get("detections", ())}) > 1 for one in rows.values()))


if __name__ == "__main__":
    sys.exit(main())
