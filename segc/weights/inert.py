"""A reader of pickles that cannot run anything: it builds plain records of what the stream describes.

``pickle.Unpickler`` calls what the stream names, and guarding it means guarding every attribute a stream can reach.
This machine goes the other way. It has no instruction that imports, calls or sets an attribute: classes become
``Global`` (two strings), what a class would have built becomes ``Instance`` (a name and its state), dictionaries become
``Table`` (pairs, never hashed), tensors become ``TensorReference`` (where its numbers lie). What a stream may name at
all is an allow-list; everything else is refused by name before anything is built from it.

The tokens come from the standard library's ``pickletools``; the format is described there and in PEP 307, 574 and 3154.
"""

import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

MAX_PICKLE_BYTES = 16 * 2**20
"""A module tree of the largest scale takes half a megabyte: numbers lie outside of the pickle."""
MAX_OPCODES = 2_000_000
"""A few seconds of reading; the largest scale with its optimiser takes about a tenth."""
_MAX_DIMENSIONS = 16
_MAX_ARGUMENTS = 16


class Refused(Exception):  # noqa: N818 - it is the stream that is at fault, and the reader's caller turns this into a SegcError
    """The stream asks for something outside of the allow-list."""


class Malformed(Exception):  # noqa: N818
    """The stream is not a pickle, breaks off, or contradicts itself."""


class TooLarge(Exception):  # noqa: N818
    """The stream goes beyond a bound."""


@dataclass(frozen=True, slots=True, eq=False)
class Global:
    """A class or function that the stream names. It stays a name."""

    path: str


class Table:
    """A dictionary, as the pairs in the order they were set: nothing is hashed or compared while the stream is read."""

    __slots__ = ("_texts", "pairs")

    def __init__(self) -> None:
        self.pairs: list[tuple[Any, Any]] = []
        self._texts: dict[str, Any] | None = None

    def texts(self) -> dict[str, Any]:
        """The entries with text keys; to be asked for once the stream is read to its end."""
        if self._texts is None:
            self._texts = {key: value for key, value in self.pairs if type(key) is str}
        return self._texts

    def get(self, key: str) -> Any:
        """The value under a text key, or None."""
        return self.texts().get(key)


@dataclass(slots=True, eq=False, repr=False)
class Instance:
    """What a class of the allow-list would have built: the class's name, its arguments, the state given to it."""

    path: str
    arguments: tuple[Any, ...] = ()
    state: Any = None
    items: list[Any] = field(default_factory=list)

    def attribute(self, name: str) -> Any:
        """An attribute of the pickled object, or None."""
        return self.state.get(name) if isinstance(self.state, Table) else None


@dataclass(frozen=True, slots=True, eq=False)
class Storage:
    """A block of numbers outside of the pickle, the entry ``data/<key>``.

    ``count`` is in elements of ``dtype``, in bytes where that is "".
    """

    dtype: str
    key: str
    count: int


@dataclass(frozen=True, slots=True, eq=False)
class TensorReference:
    """A strided view of a storage; offset and strides count elements."""

    storage: Storage
    dtype: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


STORAGES = {
    "torch.DoubleStorage": "f8",
    "torch.FloatStorage": "f4",
    "torch.HalfStorage": "f2",
    "torch.BFloat16Storage": "bf16",
    "torch.LongStorage": "i8",
    "torch.IntStorage": "i4",
    "torch.ShortStorage": "i2",
    "torch.CharStorage": "i1",
    "torch.ByteStorage": "u1",
    "torch.BoolStorage": "b1",
    "torch.storage.UntypedStorage": "",
}
"""Storage classes, with the numpy code of their elements ("" = given by the tensor)."""

DTYPES = {
    "torch.float64": "f8",
    "torch.float32": "f4",
    "torch.float16": "f2",
    "torch.bfloat16": "bf16",
    "torch.int64": "i8",
    "torch.int32": "i4",
    "torch.int16": "i2",
    "torch.int8": "i1",
    "torch.uint8": "u1",
    "torch.bool": "b1",
}

CLASS_PREFIXES = ("torch.nn.modules.", "torch.nn.parallel.", "ultralytics.")
"""Packages whose classes may stand in a pickled module tree: torch's layers and wrappers, and the reference package of
the network family. Any name below them becomes an ``Instance``; none is imported."""

_VALUES = frozenset(
    {
        *("builtins." + name for name in ("set", "frozenset", "slice", "complex", "bytearray", "object", "range")),
        *("builtins." + name for name in ("int", "float", "bool", "str", "bytes", "list", "tuple", "dict")),
        *("pathlib." + name for name in ("Path", "PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
        *("pathlib._local." + name for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")),
        *("datetime." + name for name in ("date", "datetime", "time", "timedelta", "timezone")),
        *("numpy.core.multiarray." + name for name in ("scalar", "_reconstruct")),
        *("numpy._core.multiarray." + name for name in ("scalar", "_reconstruct")),
        *("collections." + name for name in ("Counter", "defaultdict", "deque")),
        "numpy.ndarray",
        "numpy.dtype",
        "types.SimpleNamespace",
        "argparse.Namespace",
        "_codecs.encode",
        "torch.device",
        "torch.torch_version.TorchVersion",
        "torch.nn.parameter.Parameter",
    }
)
"""Plain values that training metadata holds beside the weights (dates, paths, numpy scalars). They are kept as opaque
``Instance`` records: what they would have been is never worked out."""


def _is_class_of_a_module_tree(path: str) -> bool:
    return path.startswith(CLASS_PREFIXES)


def _resolve(module: Any, name: Any) -> Global:
    """The name of a class or function, if a stream may use it at all.

    Raises:
        Refused: for every name outside of the allow-list.
    """
    if type(module) is not str or type(name) is not str:
        raise Refused("a class name that is not text")
    module = "builtins" if module == "__builtin__" else module
    path = f"{module}.{name}"
    known = path in REDUCERS or path in STORAGES or path in DTYPES or path in _VALUES
    # A dotted name would be looked up attribute by attribute; no checkpoint needs that.
    below_prefix = _is_class_of_a_module_tree(path) and name.isidentifier() and path.isascii()
    if not (known or below_prefix):
        raise Refused(f"the name {short(path)}")
    return Global(path)


def short(text: str) -> str:
    """A text from the stream, cut and escaped, fit to be shown."""
    return ascii(text[:100])[1:-1]


def _sizes(value: Any, what: str) -> tuple[int, ...]:
    if type(value) is not tuple or len(value) > _MAX_DIMENSIONS or any(type(n) is not int for n in value):
        raise Malformed(f"a tensor's {what} is not a short row of whole numbers")
    if any(not 0 <= n < 2**48 for n in value):
        raise Malformed(f"a tensor's {what} is out of range")
    return value


def _tensor(arguments: tuple[Any, ...]) -> TensorReference:
    storage, offset, shape, stride, *_ = arguments
    if not isinstance(storage, Storage):
        raise Malformed("a tensor without a storage")
    return _view(storage, storage.dtype, offset, shape, stride)


def _tensor_with_dtype(arguments: tuple[Any, ...]) -> TensorReference:
    storage, offset, shape, stride, _gradient, _hooks, dtype, *_ = arguments
    if not isinstance(storage, Storage) or not isinstance(dtype, Global) or dtype.path not in DTYPES:
        raise Malformed("a tensor without a storage or an element type")
    return _view(storage, DTYPES[dtype.path], offset, shape, stride)


def _view(storage: Storage, dtype: str, offset: Any, shape: Any, stride: Any) -> TensorReference:
    shape, stride, (offset,) = _sizes(shape, "shape"), _sizes(stride, "strides"), _sizes((offset,), "offset")
    if len(shape) != len(stride) or not dtype:
        raise Malformed("a tensor's shape, strides and element type do not belong together")
    return TensorReference(storage, dtype, offset, shape, stride)


def _first_tensor(arguments: tuple[Any, ...]) -> TensorReference:
    if not arguments or not isinstance(arguments[0], TensorReference):
        raise Malformed("a parameter without a tensor")
    return arguments[0]


def _tensor_of_subclass(arguments: tuple[Any, ...]) -> Any:
    function, _cls, inner, *_ = arguments
    if not isinstance(function, Global) or function.path not in _TENSOR_REDUCERS or type(inner) is not tuple:
        raise Refused("a tensor rebuilt by something else than torch's own functions")
    return _TENSOR_REDUCERS[function.path](inner[:_MAX_ARGUMENTS])


def _size(arguments: tuple[Any, ...]) -> tuple[int, ...]:
    (values,) = arguments
    short_list = type(values) is list and len(values) <= _MAX_DIMENSIONS
    return _sizes(tuple(values) if short_list else values, "size")


def _ordered_dict(arguments: tuple[Any, ...]) -> Table:
    if arguments:  # Python 3 sets the entries one by one, after making it empty.
        raise Refused("an ordered dictionary filled by its constructor")
    return Table()


def _bound_method(arguments: tuple[Any, ...]) -> Instance:
    """``getattr(module, "forward_fuse")``: how pickle writes a module's own method. The record is of no further use."""
    match arguments:
        case (Instance(path=path), str(name)) if (
            _is_class_of_a_module_tree(path) and name.isidentifier() and not name.startswith("_")
        ):
            return Instance("builtins.getattr")
    raise Refused("getattr on something else than a layer's public method")


_TENSOR_REDUCERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_with_dtype,
    "torch._utils._rebuild_parameter": _first_tensor,
    "torch._utils._rebuild_parameter_with_state": _first_tensor,
}

REDUCERS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    **_TENSOR_REDUCERS,
    "torch._tensor._rebuild_from_type_v2": _tensor_of_subclass,
    "torch.Size": _size,
    "collections.OrderedDict": _ordered_dict,
    "builtins.getattr": _bound_method,
}
"""The functions a stream may "call", each replaced by one of ours that only files its arguments."""


class _Machine:
    """The pickle virtual machine, with records for objects."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []
        self.memo: dict[int, Any] = {}

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.below.pop()
        return items

    def drop(self) -> None:
        if self.stack:
            self.stack.pop()
        else:
            self.since_mark()

    def take_tuple(self, count: int) -> None:
        items = [self.stack.pop() for _ in range(count)]
        self.push(tuple(reversed(items)))

    def remember(self, index: int | None = None) -> None:
        self.memo[len(self.memo) if index is None else index] = self.stack[-1]

    def extend(self, values: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is list:
            target.extend(values)
        elif isinstance(target, Instance):
            target.items.extend(values)
        else:
            raise Malformed("items added to something that is not a list")

    def append(self) -> None:
        self.extend([self.stack.pop()])

    def set_items(self, flat: list[Any]) -> None:
        target = self.stack[-1]
        if len(flat) % 2:
            raise Malformed("a dictionary key without a value")
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        if isinstance(target, Table):
            target.pairs.extend(pairs)
        elif isinstance(target, Instance):
            target.items.extend(pairs)
        else:
            raise Malformed("entries set on something that is not a dictionary")

    def set_item(self) -> None:
        value = self.stack.pop()
        self.set_items([self.stack.pop(), value])

    def make_table(self) -> None:
        flat = self.since_mark()
        self.push(Table())
        self.set_items(flat)

    def make_set(self) -> None:
        self.push(Instance("builtins.frozenset", (self.since_mark(),)))

    def name_from_stack(self) -> None:
        name = self.stack.pop()
        self.push(_resolve(self.stack.pop(), name))

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or type(arguments) is not tuple:
            raise Refused("a call of something that is not a name of the allow-list")
        if len(arguments) > _MAX_ARGUMENTS:
            raise TooLarge(f"a call with {len(arguments)} arguments")
        path = function.path
        # Functions of a foreign package are no part of a module tree; classes are written with a capital (PEP 8).
        a_class = _is_class_of_a_module_tree(path) and path.rpartition(".")[2].lstrip("_")[:1].isupper()
        if path in REDUCERS:
            self.push(REDUCERS[path](arguments))
        elif path in _VALUES or a_class:
            self.push(Instance(path, arguments))
        else:
            raise Refused(f"a call of {short(path)}")

    def new_object(self, *, keywords: bool = False) -> None:
        if keywords:
            self.stack.pop()
        arguments, cls = self.stack.pop(), self.stack.pop()
        if not isinstance(cls, Global) or type(arguments) is not tuple:
            raise Refused("an object of something that is not a class of the allow-list")
        if cls.path == "collections.OrderedDict":
            self.push(_ordered_dict(arguments))
        elif cls.path in _VALUES or _is_class_of_a_module_tree(cls.path):
            self.push(Instance(cls.path, arguments))
        else:
            raise Refused(f"an object of {short(cls.path)}")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, Instance):
            target.state = state
        # An ordered dictionary's state is what torch keeps beside a state dict (versions of layers): not needed.
        elif not isinstance(target, Table):
            raise Refused("a state set on something that is not a layer")

    def persistent(self) -> None:
        match self.stack.pop():
            case ("storage", Global(path=path), str(key), str(), int(count)) if path in STORAGES and count >= 0:
                self.push(Storage(STORAGES[path], key, count))
            case _:
                raise Refused("an outside object that is not a tensor's storage")


_PUSH_ARGUMENT = (
    *("BININT", "BININT1", "BININT2", "LONG1", "LONG4", "BINFLOAT", "BINSTRING", "SHORT_BINSTRING"),
    *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)

_ACTIONS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME"), lambda machine, argument: None),  # noqa: ARG005
    **dict.fromkeys(_PUSH_ARGUMENT, _Machine.push),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.mark(),
    "POP": lambda machine, _: machine.drop(),
    "POP_MARK": lambda machine, _: [machine.since_mark()].clear(),
    "DUP": lambda machine, _: machine.push(machine.stack[-1]),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE1": lambda machine, _: machine.take_tuple(1),
    "TUPLE2": lambda machine, _: machine.take_tuple(2),
    "TUPLE3": lambda machine, _: machine.take_tuple(3),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.since_mark())),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.since_mark()),
    "APPEND": lambda machine, _: machine.append(),
    "APPENDS": lambda machine, _: machine.extend(machine.since_mark()),
    "EMPTY_DICT": lambda machine, _: machine.push(Table()),
    "DICT": lambda machine, _: machine.make_table(),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.set_items(machine.since_mark()),
    "EMPTY_SET": lambda machine, _: machine.push(Instance("builtins.set")),
    "ADDITEMS": lambda machine, _: machine.extend(machine.since_mark()),
    "FROZENSET": lambda machine, _: machine.make_set(),
    "GET": lambda machine, index: machine.push(machine.memo[index]),
    "BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "LONG_BINGET": lambda machine, index: machine.push(machine.memo[index]),
    "PUT": lambda machine, index: machine.remember(index),
    "BINPUT": lambda machine, index: machine.remember(index),
    "LONG_BINPUT": lambda machine, index: machine.remember(index),
    "MEMOIZE": lambda machine, _: machine.remember(),
    "GLOBAL": lambda machine, names: machine.push(_resolve(*_split(names))),
    "STACK_GLOBAL": lambda machine, _: machine.name_from_stack(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "NEWOBJ": lambda machine, _: machine.new_object(),
    "NEWOBJ_EX": lambda machine, _: machine.new_object(keywords=True),
    "BUILD": lambda machine, _: machine.build(),
    "BINPERSID": lambda machine, _: machine.persistent(),
}
"""What each instruction does. Those of protocol 0, extension codes (EXT1…), INST, OBJ and out-of-band buffers are not
here: torch writes none of them, so a stream that has one is refused."""


def _split(names: Any) -> list[str]:
    """Module and name of a ``GLOBAL``, which ``pickletools`` joins by one space."""
    parts: list[str] = str(names).split(" ")
    if len(parts) != 2:
        raise Refused(f"the name {short(str(names))}")
    return parts


def read(data: bytes) -> Any:
    """What a pickle describes, as records.

    Args:
        data: the whole stream.

    Returns:
        Numbers, texts, lists and tuples as they are; everything else as ``Table``, ``Instance``, ``Global``,
        ``Storage`` and ``TensorReference``.

    Raises:
        Refused: where the stream names or calls something outside of the allow-list.
        Malformed: where it is no pickle, or a broken one.
        TooLarge: where it goes beyond ``MAX_PICKLE_BYTES`` or ``MAX_OPCODES``.
    """
    if len(data) > MAX_PICKLE_BYTES:
        raise TooLarge(f"a pickle of {len(data)} bytes, over {MAX_PICKLE_BYTES}")
    machine = _Machine()
    try:
        for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
            if count >= MAX_OPCODES:
                raise TooLarge(f"over {MAX_OPCODES} instructions")
            if opcode.name == "STOP":
                return machine.stack.pop()
            action = _ACTIONS.get(opcode.name)
            if action is None:
                raise Refused(f"the instruction {opcode.name}")
            action(machine, argument)
    except (IndexError, KeyError) as error:
        raise Malformed("it takes what it never put down") from error
    except (ValueError, OverflowError) as error:
        raise Malformed(short(str(error))) from error
    raise Malformed("it has no end")
