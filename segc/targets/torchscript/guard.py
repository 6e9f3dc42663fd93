"""What is looked at in an archive of a stranger before PyTorch sees it.

A TorchScript archive is a program: no Python, but it can write files. So its text is read before PyTorch does, and only
what this target writes is let through. PyTorch's reader of archives is not Python's: it takes names for equal that
differ in case, knows older layouts in which programs have other names, and believes other places of an archive's end.
Hence the checks of names and of the end: what is read here is what PyTorch reads there.
"""

from __future__ import annotations

import ast
import re
import struct
import zipfile
from typing import TYPE_CHECKING

from segc.archives import BROKEN, read_entry
from segc.diagnostics import fail
from segc.inference.metadata import MOST_DETECTIONS
from segc.targets.torchscript.runtime import METADATA_ENTRY

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

LONGEST_TEXT = 1 << 24
"""Most bytes of program text, which is compressed, in an archive; scale x takes a hundredth."""

CALLS = frozenset(
    {
        *("batch_norm", "cat", "conv2d", "conv_transpose2d", "max_pool2d", "sigmoid", "silu", "softmax"),
        *("add", "mul", "sub", "sum", "flatten", "permute", "reshape", "size", "split", "to", "transpose"),
        "upsample_nearest2d",
        # Of suppression.
        *("amax", "argmax", "clamp_max", "clamp_min", "copy_", "div", "ge", "gt", "index_fill", "index_select", "lt"),
        *("logical_and", "matmul", "maximum", "minimum", "new_zeros", "select", "slice", "unsqueeze"),
        *("upsample_bilinear2d", "where", "zeros_like"),
    }
)
"""What the text of an archive may call, as ``torch.<name>``."""

CALLS_OF_ROUNDS = frozenset({"int", "range"})
"""What it may call by name alone, for its rounds."""

CALLS_FOR_PHONES = frozenset({"conv2d_clamp_run", "conv2d_transpose_clamp_run"})
"""What it may call as ``ops.prepacked.<name>``."""

_PROGRAM = re.compile(r"code/__torch__(/\w+)*\.py", re.ASCII)

_ENTRY = re.compile(
    rf"{_PROGRAM.pattern}(\.debug_pkl)?|extra/{re.escape(METADATA_ENTRY)}|(data|constants)/[0-9]+"
    r"|constants/[0-9]+\.storage|(data|constants|bytecode)\.pkl"  # the former for the mobile interpreter
    r"|version|byteorder|\.data/serialization_id",
    re.ASCII,
)
"""Names of entries below an archive's one folder, all that PyTorch writes for a model of segc."""

_FLAGS = 0x808
"""Bits that entries may have: sizes behind the contents, names in UTF-8."""

_END, _END64, _LOCATOR = struct.Struct("<4s4H2IH"), struct.Struct("<4sQ2H2I4Q"), struct.Struct("<4sIQI")
"""Records at the end of an archive, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.14 to 4.3.16."""

_LIMITED = re.compile(r"(?P<name>\w+) = int\(torch\.clamp_max\(\w+, (?P<most>\d{1,9})\)\)", re.ASCII)

_CALLS_BY_SPACE = {"torch": CALLS, "ops.prepacked": CALLS_FOR_PHONES, "": CALLS_OF_ROUNDS}

_BLOCKS = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.For)
_STATEMENTS = (*_BLOCKS, ast.Assign, ast.AnnAssign, ast.Return, ast.arguments, ast.arg)
_EXPRESSIONS = (ast.Attribute, ast.Call, ast.Constant, ast.Dict, ast.List, ast.Name, ast.Subscript, ast.Tuple)
_MARKS = (ast.Load, ast.Store, ast.UnaryOp, ast.USub)
_FORMS = (*_STATEMENTS, *_EXPRESSIONS, *_MARKS)


def check(path: Path) -> None:
    """See that an archive is one that segc may have written, and that its program does nothing but compute.

    Raises:
        SegcError: T006 where it is damaged, its contents are larger than they look, or its program does anything else.
    """
    try:
        _check_ends(path)
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            _check_entries(entries, path)
            for entry in entries:
                if _PROGRAM.fullmatch(entry.filename.partition("/")[2]):
                    _check_program(read_entry(archive, entry), path)
    except (*BROKEN, struct.error):
        raise fail("T006", "damaged: not a TorchScript archive", file=path, help="emit it again") from None
    except OSError as error:
        raise fail("T006", f"it cannot be read: {error.strerror}", file=path) from None


def _check_ends(path: Path) -> None:
    """See that an archive begins with an entry and that its directory lies right before the records at its end.

    Raises:
        ValueError: where not every reader would take the same directory.
    """
    with path.open("rb") as file:
        first = file.read(4)
        size = path.stat().st_size
        file.seek(max(0, size - _END.size - _LOCATOR.size - _END64.size))
        tail = file.read()
    signature, *disks, _, length, start, comment = _END.unpack(tail[-_END.size :])
    stop = size - _END.size
    located = tail[-_END.size - _LOCATOR.size : -_END.size]
    if located[:4] == b"PK\x06\x07":
        stop -= _LOCATOR.size + _END64.size
        record = _END64.unpack(tail[: _END64.size])
        if record[:2] != (b"PK\x06\x06", _END64.size - 12) or _LOCATOR.unpack(located)[1:] != (0, stop, 1):
            raise ValueError("its end is somewhere else")
        length, start = record[8:]
    if first != b"PK\x03\x04" or signature != b"PK\x05\x06" or any(disks[:2]) or comment or start + length != stop:
        raise ValueError("its directory is somewhere else")


def _check_entries(entries: Sequence[zipfile.ZipInfo], path: Path) -> None:
    """Look at names and sizes.

    Raises:
        SegcError: T006 where they are not those of a model of segc.
    """
    if sum(entry.file_size for entry in entries) > path.stat().st_size + LONGEST_TEXT:
        raise fail("T006", "its contents are far larger than the file", file=path)
    names = [entry.orig_filename for entry in entries]
    if len({name.casefold() for name in names}) != len(names) or len({name.partition("/")[0] for name in names}) != 1:
        raise fail("T006", "not a TorchScript archive: it holds a name twice, or several folders", file=path)
    for entry, name in zip(entries, names, strict=True):
        known = name == entry.filename and _ENTRY.fullmatch(name.partition("/")[2])
        if not known or entry.extra or entry.flag_bits & ~_FLAGS:
            raise fail("T006", f"not a model of segc: its archive holds {name!r:.80}", file=path)


def _bounded_rounds(tree: ast.Module) -> list[ast.expr]:
    """What loops may run over: ``range`` of a number that was limited to what an image can have of detections."""
    limited = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            found = _LIMITED.fullmatch(f"{ast.unparse(node.targets[0])} = {ast.unparse(node.value)}")
            if found and int(found["most"]) <= MOST_DETECTIONS:
                limited.add(f"range({found['name']})")
    loops = [node.iter for node in ast.walk(tree) if isinstance(node, ast.For)]
    return [one for one in loops if ast.unparse(one) in limited]


def _check_program(text: bytes, path: Path) -> None:
    """Look for anything in the text of a program that this target does not write.

    Raises:
        SegcError: T006 naming the first such thing.
    """
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        raise fail("T006", "its program cannot be read", file=path) from None
    bounded = _bounded_rounds(tree)
    for node in ast.walk(tree):
        strange = not isinstance(node, _FORMS)
        if isinstance(node, ast.Call):
            space, _, function = ast.unparse(node.func).rpartition(".")
            strange = function not in _CALLS_BY_SPACE.get(space, frozenset())
        elif isinstance(node, ast.For):
            strange = node.iter not in bounded or any(
                isinstance(one, ast.For) for one in ast.walk(node) if one is not node
            )
        elif isinstance(node, ast.FunctionDef):
            strange = node.name != "forward" or bool(node.decorator_list)
        if strange:
            what = ast.unparse(node).splitlines()[0][:80]
            raise fail("T006", f"its program does what no model of segc does: {what}", file=path)
