"""Reading other projects' PyTorch checkpoints without PyTorch and without running their pickle.

``torch.save`` has written zip archives since version 1.6: ``<name>/data.pkl`` is a pickle of the object,
``<name>/data/<key>`` the bytes of each storage, uncompressed, ``<name>/byteorder`` their order. The pickle is read by
:mod:`segc.weights.inert`, which builds records and calls nothing. From the records come the tensors of a state dict (as
it is, or collected from a pickled module tree in the order PyTorch lists them), class names and the licence string.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from segc.archives import BROKEN
from segc.diagnostics import fail
from segc.spec.weights import MAX_FILE_BYTES
from segc.weights import inert
from segc.weights.inert import Instance, Malformed, Refused, Table, TensorReference, TooLarge
from segc.weights.store import widen_bfloat16

MAX_TENSORS = 100_000
_MAX_MODULES = 100_000
_MAX_DEPTH = 64
_MAX_NAME = 512
_MAX_CLASSES = 100_000
_MAX_SHARING = 4
"""How many times its own size a file's tensors may take in elements: several may view one storage, not any number."""

STATE_KEYS = (
    *("ema", "ema_state_dict", "state_dict_ema", "model_ema"),
    *("model", "state_dict", "model_state_dict", "module", "net", "network", "weights"),
)
"""Keys that checkpoints keep weights under, the preferred first: averaged weights are those that are validated."""

_LEGACY_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
_NO_STORAGE = "torch.save writes it in one piece; copy or download the file again"


@dataclass(frozen=True)
class ForeignCheckpoint:
    """What segc keeps of a checkpoint.

    Attributes:
        tensors: float32 (from any floating type) and int64 (from any integer or boolean type) arrays under their
            state-dict names.
        names: class names by index, where the checkpoint has them.
        license: the licence string it carries.
        lineage: what it says it descends from, as segc's own exports do.
        producer: what it says of its origin: class of the module, version of the package that wrote it.
        notes: what the reader chose or left out, one sentence each.
    """

    tensors: dict[str, NDArray[np.generic]]
    names: tuple[str, ...] | None = None
    license: str | None = None
    lineage: str | None = None
    producer: str | None = None
    notes: tuple[str, ...] = ()


def read_checkpoint(path: Path, *, tensors: bool = True) -> ForeignCheckpoint:
    """Read a ``.pt`` or ``.pth`` file; nothing in it is run, no package it names is imported.

    Args:
        path: a file that ``torch.save`` (1.6 or newer) wrote: a dictionary with a module or a state dict under one of
            ``STATE_KEYS``, a bare state dict, or a whole module.
        tensors: read the numbers too; without them only what the file says of itself.

    Raises:
        SegcError: W001 where it is no such file, W002 where it is damaged, W003 where its pickle names or calls
            something outside of the allow-list, W004 where it is beyond a bound, W005 for tensors of a type
            that has no place in a network, W006 where it holds no weights, F001 where it is not there.
        OSError: where the file cannot be opened.
    """
    if not path.exists():
        raise fail("F001", f"no such file: {path}", file=path)
    if not path.is_file():
        raise fail("W001", "a checkpoint is a file, this is not", file=path)
    with path.open("rb") as file, _errors_of(path):
        size = file.seek(0, io.SEEK_END)
        if size > MAX_FILE_BYTES:
            raise TooLarge(f"a file of {size} bytes, over {MAX_FILE_BYTES}")
        _check_kind(path, file)
        with zipfile.ZipFile(file) as archive:
            reader = _Archive(archive, size, path)
            return _interpret(inert.read(reader.pickle()), reader, path, tensors=tensors)


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Turn whatever is wrong with the file's content into the one error that says so."""
    try:
        yield
    except Refused as error:
        raise fail(
            "W003",
            f"refused: the checkpoint's pickle holds {error}, which is no part of a network's weights; nothing was run",
            file=path,
            help="if you trust its origin, save it again as a plain state dict (torch.save(model.state_dict(), …))",
        ) from error
    except TooLarge as error:
        raise fail("W004", f"refused: {error}", file=path) from error
    except Malformed as error:
        raise fail("W002", f"the checkpoint's content is broken: {error}", file=path, help=_NO_STORAGE) from error
    except (*BROKEN, OSError) as error:
        reason = inert.short(str(error)) or type(error).__name__
        raise fail("W002", f"the archive is broken or cut off: {reason}", file=path, help=_NO_STORAGE) from error


def _check_kind(path: Path, file: IO[bytes]) -> None:
    """Refuse what is no zip archive, in words that fit what it is."""
    file.seek(0)
    head = file.read(256)
    if head.startswith(b"PK\x03\x04"):
        return
    if not head:
        raise fail("W001", "the file is empty", file=path)
    if head.startswith(_LEGACY_MAGIC):
        raise fail(
            "W001",
            "a checkpoint in the format of PyTorch before 1.6, which segc does not read",
            file=path,
            help="load and save it once with a newer PyTorch: torch.save writes the zip format by default",
        )
    if head.startswith(b"version https://git-lfs"):
        raise fail("W001", "a Git LFS pointer in place of the file", file=path, help="fetch it: git lfs pull")
    raise fail(
        "W001",
        "not a PyTorch checkpoint (torch.save writes a zip archive, this is none)",
        file=path,
        help="segc reads .safetensors, and the .pt or .pth files of PyTorch 1.6 and newer",
    )


class _Archive:
    """The entries of a checkpoint, bounded by the file they lie in."""

    def __init__(self, archive: zipfile.ZipFile, size: int, path: Path) -> None:
        self._archive = archive
        self._size, self._path = size, path
        self._entries = {entry.filename: entry for entry in archive.infolist()}
        if len(self._entries) != len(archive.infolist()):
            raise Malformed("two entries have the same name")
        self._root = self._find_root()
        order = self._read("byteorder") if f"{self._root}/byteorder" in self._entries else b"little"
        if order not in (b"little", b"big"):
            raise Malformed("the byte order is neither little nor big")
        self._order = "<" if order == b"little" else ">"
        self._storages: dict[str, bytes] = {}
        self._elements_left = _MAX_SHARING * size

    def _find_root(self) -> str:
        roots = [found[1] for name in self._entries if (found := re.fullmatch(r"([^/\\]+)/data\.pkl", name))]
        if len(roots) != 1:
            raise fail(
                "W001",
                "a zip archive, but not one that torch.save wrote (no data.pkl in it)",
                file=self._path,
                help="segc reads .safetensors, and the .pt or .pth files of PyTorch 1.6 and newer",
            )
        (root,) = roots
        if any(name.startswith((f"{root}/code/", f"{root}/constants.pkl")) for name in self._entries):
            raise fail(
                "W001",
                "a TorchScript archive: a compiled program, not a checkpoint",
                file=self._path,
                help="take the checkpoint it was exported from",
            )
        return root

    def _read(self, name: str) -> bytes:
        entry = self._entries.get(f"{self._root}/{name}")
        if entry is None:
            raise Malformed(f"its entry {inert.short(name)} is missing")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise fail(
                "W001",
                f"the archive has a compressed entry ({inert.short(name)}), torch.save writes none",
                file=self._path,
                help="if it was packed again, load and save it once with PyTorch",
            )
        if entry.file_size > self._size:
            raise Malformed(f"its entry {inert.short(name)} claims to be larger than the file")
        return self._archive.read(entry)

    def pickle(self) -> bytes:
        """The pickle, if it is not beyond its bound."""
        entry = self._entries[f"{self._root}/data.pkl"]
        if entry.file_size > inert.MAX_PICKLE_BYTES:
            raise TooLarge(f"a pickle of {entry.file_size} bytes, over {inert.MAX_PICKLE_BYTES}")
        return self._read("data.pkl")

    def tensor(self, reference: TensorReference) -> NDArray[np.generic]:
        """The numbers of a tensor, as a contiguous float32 or int64 array.

        Raises:
            Malformed: where the tensor reaches beyond its storage, or the storage is not as long as stated.
            TooLarge: where all tensors together take many times the file's size.
        """
        storage = reference.storage
        width = _width(reference.dtype)
        data = self._storages.get(storage.key)
        if data is None:
            data = self._storages[storage.key] = self._read(f"data/{storage.key}")
        if len(data) != storage.count * (_width(storage.dtype) if storage.dtype else 1):
            raise Malformed(f"storage {inert.short(storage.key)} is not as long as stated")
        count = prod(reference.shape)
        last = reference.offset + sum((n - 1) * step for n, step in zip(reference.shape, reference.stride, strict=True))
        if count and (last >= len(data) // width or count > len(data) // width):
            raise Malformed(f"a tensor of shape {reference.shape} reaches beyond its storage")
        self._elements_left -= count
        if self._elements_left < 0:
            raise TooLarge(f"tensors of over {_MAX_SHARING} times the file's size")
        if not count:
            return np.zeros(reference.shape, np.float32 if _is_float(reference.dtype) else np.int64)
        code = "u2" if reference.dtype == "bf16" else reference.dtype
        flat = np.frombuffer(data, np.dtype(self._order + code), count=len(data) // width)
        view = np.lib.stride_tricks.as_strided(
            flat[reference.offset :], reference.shape, [step * width for step in reference.stride], writeable=False
        )
        if reference.dtype == "bf16":
            return widen_bfloat16(view)
        return view.astype(np.float32 if _is_float(reference.dtype) else np.int64, order="C")


def _width(dtype: str) -> int:
    return 2 if dtype == "bf16" else np.dtype(dtype).itemsize


def _is_float(dtype: str) -> bool:
    return dtype in {"f8", "f4", "f2", "bf16"}


def _interpret(root: Any, archive: _Archive, path: Path, *, tensors: bool) -> ForeignCheckpoint:
    found = _find_weights(root)
    if found is None:
        raise fail(
            "W006",
            "the checkpoint holds neither a module nor a state dict",
            file=path,
            help=f"segc looks for a state dict, or one of the keys {', '.join(STATE_KEYS)}",
        )
    place, holder = found
    notes = [f"weights taken from `{place}`"] if place else []
    names, remark = _class_names(root, holder)
    notes += [remark] if remark else []
    references = dict(_module_tensors(holder) if isinstance(holder, Instance) else _table_tensors(holder))
    if len(references) > MAX_TENSORS:
        raise TooLarge(f"over {MAX_TENSORS} tensors")
    return ForeignCheckpoint(
        tensors={name: archive.tensor(reference) for name, reference in references.items()} if tensors else {},
        names=names,
        license=_text_entry(root, "license"),
        lineage=_text_entry(root, "lineage", 1 << 20),
        producer=_producer(root, holder),
        notes=tuple(notes),
    )


def _find_weights(value: Any, place: str = "", depth: int = 0) -> tuple[str, Instance | Table] | None:
    """The module or the state dict in a checkpoint, and under which key."""
    if isinstance(value, Instance):
        return (place, value) if isinstance(value.attribute("_modules"), Table) else None
    if not isinstance(value, Table) or depth > 2:
        return None
    if any(isinstance(entry, TensorReference) for entry in value.texts().values()):
        return place, value
    below = (_find_weights(value.get(key), f"{place}.{key}".lstrip("."), depth + 1) for key in STATE_KEYS)
    return next((found for found in below if found), None)


def _table_tensors(table: Table) -> Iterator[tuple[str, TensorReference]]:
    for name, value in table.texts().items():
        if isinstance(value, TensorReference):
            yield _checked_name(name), value


def _module_tensors(root: Instance) -> Iterator[tuple[str, TensorReference]]:
    """Parameters and persistent buffers of a module and the modules below it, in PyTorch's order of a state dict."""
    visits = 0
    pending: list[tuple[str, Instance, int]] = [("", root, 0)]
    while pending:
        prefix, module, depth = pending.pop()
        own, hidden, children = _parts(module)
        visits += 1 + len(own) + len(children)
        if visits > _MAX_MODULES or depth > _MAX_DEPTH:
            raise TooLarge(f"a tree of over {_MAX_MODULES} modules, or deeper than {_MAX_DEPTH}")
        for name, value in own.items():
            if isinstance(value, TensorReference) and name not in hidden:
                yield _checked_name(prefix + name), value
        below = [
            (f"{prefix}{_checked_name(name)}.", child, depth + 1)
            for name, child in children.items()
            if isinstance(child, Instance)
        ]
        pending.extend(reversed(below))


def _parts(module: Instance) -> tuple[dict[str, Any], set[str], dict[str, Any]]:
    """A module's own tensors, the names among them that no state dict lists, and the modules in it."""
    parameters, buffers, children = (
        value.texts() if isinstance(value := module.attribute(name), Table) else {}
        for name in ("_parameters", "_buffers", "_modules")
    )
    unlisted = module.attribute("_non_persistent_buffers_set")
    names: Any = ()
    if isinstance(unlisted, Instance):
        names = unlisted.arguments[0] if unlisted.arguments else unlisted.items
    hidden = {name for name in names[:1000] if type(name) is str} if type(names) is list else set()
    return {**parameters, **buffers}, hidden - parameters.keys(), children


def _checked_name(name: str) -> str:
    if len(name) > _MAX_NAME or not name.isprintable():
        raise Malformed(f"a tensor's name is over {_MAX_NAME} characters, or not printable")
    return name


def _class_names(root: Any, holder: Instance | Table) -> tuple[tuple[str, ...] | None, str]:
    """Class names by index, from the module's ``names`` or the checkpoint's; and a remark where they are of no use."""
    holders = (holder, root, root.get("model") if isinstance(root, Table) else None)
    for candidate in holders:
        if isinstance(candidate, Instance):
            value = candidate.attribute("names")
        else:
            value = candidate.get("names") if isinstance(candidate, Table) else None
        if isinstance(value, Table):
            pairs = value.pairs
        elif type(value) is list or type(value) is tuple:
            pairs = list(enumerate(value))
        else:
            continue
        names = _dense(pairs[:_MAX_CLASSES])
        return names, "" if names else "its class names are not a name for each index: left out"
    return None, ""


def _dense(pairs: list[tuple[Any, Any]]) -> tuple[str, ...] | None:
    by_index = {index: name for index, name in pairs if type(index) is int and 0 <= index < len(pairs)}
    names = tuple(by_index.get(index) for index in range(len(pairs)))
    usable = tuple(name for name in names if type(name) is str and 0 < len(name) <= _MAX_NAME and name.isprintable())
    return usable if usable and len(usable) == len(pairs) else None


def _text_entry(root: Any, key: str, most: int = _MAX_NAME) -> str | None:
    value = root.get(key) if isinstance(root, Table) else None
    printable = type(value) is str and 0 < len(value) <= most and value.isprintable()
    return value if printable else None


def _producer(root: Any, holder: Instance | Table) -> str | None:
    parts = (
        holder.path if isinstance(holder, Instance) else None,
        f"version {version}" if (version := _text_entry(root, "version")) else None,
    )
    return ", ".join(part for part in parts if part) or None
