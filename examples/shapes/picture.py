"""Make the picture of README.md: shapes that ``generate.py`` draws, with what the tests' small network finds on them.

It was trained on these very pictures.

    python examples/shapes/picture.py docs/pictures/shapes.jpg
"""

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

import segc

HERE = Path(__file__).resolve().parent
WEIGHTS = HERE.parents[1] / "tests" / "material" / "shapes.safetensors"
SHOWN = ("00003", "00016", "00026")
SIDE = 352


def main() -> None:
    """Draw, predict, and write one picture of several beside each other."""
    model = segc.load(WEIGHTS, conf=0.4)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(HERE / "generate.py"), "--train", "48", "--val", "1"]
        subprocess.run([*command, "--output", folder], check=True, capture_output=True)
        photos = [cv2.imread(str(Path(folder) / "images" / "train" / f"{name}.jpg")) for name in SHOWN]
    large = [np.asarray(cv2.resize(photo, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC), np.uint8) for photo in photos]
    picture = np.concatenate([found.plot() for found in model(large)], axis=1)
    cv2.imwrite(sys.argv[1], picture, [cv2.IMWRITE_JPEG_QUALITY, 88])


if __name__ == "__main__":
    main()
