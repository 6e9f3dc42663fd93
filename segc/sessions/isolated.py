"""A stranger's model in a process of its own: if it brings its runtime down, that is one diagnostic, not the end.

Parent and child exchange messages over the child's standard input and output: the length of a header (4 bytes,
little-endian), the header as JSON, and after it the bytes of the arrays that it describes, one after another.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import weakref
from contextlib import suppress
from importlib import import_module
from math import prod
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from segc.compute import QUIET
from segc.diagnostics import SegcError, fail
from segc.inference.metadata import ModelError, parse_metadata
from segc.inference.model import DeviceError
from segc.inference.text import named_in_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from segc.inference.metadata import Metadata
    from segc.targets.contract import Target

_AGAIN = "emit it again, or copy it again"
_FROM_OUTSIDE = frozenset(
    getattr(signal, name) for name in ("SIGKILL", "SIGTERM", "SIGHUP", "SIGINT", "SIGQUIT") if hasattr(signal, name)
)
"""Signals that no fault of a model sends: somebody, or a system that is short of memory, ended its process."""

_START = "import sys; sys.path.append(sys.argv[1]); from segc.sessions.isolated import serve; serve()"
_PATH_ENTRY = Path(__file__).resolve().parents[2]


class IsolatedModel:
    """A session (see ``segc.sessions``) on a model in another process, which ends with this object.

    A process that was ended from outside is told once, and started anew when the model is run again; one that the model
    brought down is not.

    Args:
        target: what the model is of.
        path: its file or folder; the target's guard has looked at it.
        threads: of the runtime; 0 leaves it the choice.
        device: where the runtime is to run it; None for its first.

    Raises:
        SegcError: R007 where the device is not here, T004 where the process was ended from outside, T006 where the
            model cannot be run.
    """

    def __init__(self, target: Target, path: Path, threads: int = 0, device: str | None = None) -> None:
        self._path = path
        self._check = target.check
        opener = target.stand_in(path) or target.runtime
        self._arguments = (str(_PATH_ENTRY), opener, str(path), str(threads), device or "")
        self.metadata, self.runtime = self._start()

    def _start(self) -> tuple[Metadata, str]:
        """Start the process; what the model says about itself, and what runs it."""
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _START, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**QUIET, **os.environ},
            # Ctrl-C reaches the parent only; a child whose parent is gone ends itself.
            start_new_session=True,
        )
        self._end = weakref.finalize(self, _end, self._process)
        header, _ = self._receive()
        return parse_metadata(header["metadata"]), str(header["runtime"])

    def _start_again(self) -> None:
        """Start the process anew: its file may have become another one since.

        Raises:
            SegcError: as where it was opened.
        """
        self._end()
        self._check(self._path)
        metadata, self.runtime = self._start()
        if metadata != self.metadata:
            self._end()
            raise fail("T006", "it is no longer the model that was opened", file=self._path, help="open it again")

    def run(self, images: NDArray[np.float32]) -> Mapping[str, NDArray[np.float32]]:
        """See ``segc.sessions.Session.run``.

        Raises:
            SegcError: T004 where the process was ended from outside, T006 where the model cannot be run, or brings its
                process down.
        """
        if _was_ended(self._process.returncode):
            self._start_again()
        with suppress(BrokenPipeError):  # A child that has ended: the answer says so.
            _send(cast("IO[bytes]", self._process.stdin), {}, {"images": images})
        return self._receive()[1]

    def _receive(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        try:
            header, arrays = _receive(cast("IO[bytes]", self._process.stdout))
        except EOFError:
            code = self._process.wait()
            how = signal.Signals(-code).name if -code in set(signal.Signals) else f"exit status {code}"
            if _was_ended(code):
                text = f"the process that runs it was ended from outside ({how}): memory ran out, or somebody ended it"
                raise fail("T004", text, file=self._path, help="running it again starts another one") from None
            text = f"it brings down the process that runs it ({how}): damaged, or meant to do harm"
            raise fail("T006", text, file=self._path, help=_AGAIN) from None
        if "no device" in header:
            raise no_device(header["no device"])
        if "refused" in header:
            raise fail("T006", header["refused"], file=self._path, help=_AGAIN)
        return header, arrays


def _was_ended(code: int | None) -> bool:
    """Whether a process has this exit status because somebody else ended it; None for one that runs."""
    return code is not None and -code in _FROM_OUTSIDE


def no_device(error: DeviceError | str) -> SegcError:
    """What is wrong with a device, as a diagnostic."""
    return fail("R007", str(error), help="device auto takes what is here; where no device is named, none is asked for")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout):
        with suppress(OSError):
            cast("IO[bytes]", stream).close()


def _send(stream: IO[bytes], header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    import numpy as np

    solid = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    described = [[name, array.dtype.str, array.shape] for name, array in solid.items()]
    text = json.dumps({**header, "arrays": described}).encode()
    stream.write(len(text).to_bytes(4, "little") + text)
    for array in solid.values():
        stream.write(array.reshape(-1).view(np.uint8).data)
    stream.flush()


def _receive(stream: IO[bytes]) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """A header and its arrays.

    Raises:
        EOFError: where the other side has ended.
    """
    import numpy as np

    header: dict[str, Any] = json.loads(_read(stream, int.from_bytes(_read(stream, 4), "little")))
    arrays = {}
    for name, kind, shape in header.pop("arrays"):
        dtype = np.dtype(kind)
        arrays[name] = np.frombuffer(_read(stream, dtype.itemsize * prod(shape)), dtype).reshape(shape)
    return header, arrays


def _read(stream: IO[bytes], count: int) -> bytearray:
    content = bytearray(count)
    view, done = memoryview(content), 0
    while done < count:
        # A buffered reader fills what it is given, but for the end.
        number = cast("Any", stream).readinto(view[done:])
        if not number:
            raise EOFError
        done += number
    return content


def serve() -> None:
    """The child's side: open the model, then run whatever comes."""
    _, _, opener, path, threads, device = sys.argv
    answers = os.fdopen(os.dup(1), "wb")
    # What runtimes print must not get between the answers.
    os.dup2(2, 1)
    try:
        with named_in_text(Path(path)) as place:
            model = import_module(opener).open_model(place, int(threads), device or None)
    except _REFUSALS as error:
        _send(answers, _refusal(error), {})
        os._exit(0)
    _send(answers, {"metadata": model.metadata.to_json(), "runtime": model.runtime}, {})
    while True:
        try:
            _, arrays = _receive(sys.stdin.buffer)
        except EOFError:
            os._exit(0)
        try:
            header, outputs = {}, model.run(arrays["images"])
        except _REFUSALS as error:
            header, outputs = _refusal(error), {}
        _send(answers, header, outputs)


_REFUSALS = (ModelError, SegcError)
"""What a model that cannot be opened or run raises; all else ends the process."""


def _refusal(error: ModelError | SegcError) -> dict[str, str]:
    """What is answered in place of outputs."""
    text = error.diagnostics[0].message if isinstance(error, SegcError) else str(error)
    return {"no device" if isinstance(error, DeviceError) else "refused": text}
