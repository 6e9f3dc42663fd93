"""What fuzzing does to sound inputs: seeded changes of bytes, texts, JSON values and zip archives."""

import io
import json
import random
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

BYTES = (0, 1, 0x0A, 0x1B, 0x20, 0x7F, 0x80, 0xFE, 0xFF)
"""Bytes that mean something to somebody."""

WORDS = (
    *(
        "",
        "null",
        "~",
        "yes",
        "true",
        "-1",
        "0",
        "1",
        "7",
        "1e999",
        "-.inf",
        ".nan",
        "NaN",
        "1e-400",
        "0x7fffffffffffffff",
    ),
    *("9" * 30, "9" * 50, "1_000", "0o17", "2024-01-01", "1:30", "[]", "{}", "[[[[[[", "]", "}", "{a: {b: {c: 1}}}"),
    *(
        "!!python/object/apply:os.system [x]",
        "!x",
        "!" * 300,
        "&a [*a]",
        "*a",
        "<<: *a",
        "? x",
        "- ",
        "---",
        "...",
        "%YAML 1.1",
    ),
    *(
        '"\\ud83d\\ude00"',
        '"\\ud83d"',
        '"\\x00"',
        '"\\x1b[31m"',
        "'",
        '"',
        "\x1b]0;x\x07",
        "\u202e",
        "\ufeff",
        "\u2028",
        "\x85",
        "\0",
    ),
    *(
        "../../../etc/passwd",
        "/dev/zero",
        "/dev/null",
        "~root",
        "$HOME",
        "C:\\x",
        "//host/share",
        "a" * 5000,
        "\t",
        "|\n  x",
        ">\n",
    ),
)
"""Values that have been too much for one parser or another."""

VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        1.5,
        1e308,
        -1e-308,
        2**31,
        2**63,
        2**64,
        -(2**63),
        10**40,
        float("nan"),
        float("inf"),
    ),
    *("", "a", "\x1b[31m", "\ud83d", "a\nb", "\u202e", "9" * 400, "../x", "/dev/zero", "a" * 10_000),
    *(
        [],
        [[]],
        {},
        {"": {}},
        [0] * 1000,
        ["a"] * 1000,
        [None],
        [[1, 2], [3]],
        {"counts": [], "size": [1 << 31, 1 << 31]},
    ),
)
"""JSON values of every type, and of sizes that nobody expects."""


def changed_bytes(numbers: random.Random, data: bytes) -> bytes:
    """A few changes of bytes: replaced, taken out, doubled, moved or cut off."""
    changed = bytearray(data)
    for _ in range(numbers.choice((1, 1, 2, 4, 16))):
        if not changed:
            return bytes(numbers.choices(BYTES, k=8))
        # Headers stand at the beginning.
        at = numbers.randrange(min(len(changed), numbers.choice((16, 64, 1024, len(changed)))))
        length = numbers.choice((1, 1, 2, 4, 8, 64))
        kind = numbers.randrange(7)
        if kind < 3:
            changed[at : at + 1] = bytes([numbers.choice((*BYTES, numbers.randrange(256)))])
        elif kind == 3:
            changed[at : at + length] = bytes(numbers.choice(BYTES) for _ in range(length))
        elif kind == 4:
            del changed[at : at + length]
        elif kind == 5:
            changed[at:at] = changed[at : at + length]
        else:
            del changed[at + length :]
    return bytes(changed)


def with_right_sums(data: bytes) -> bytes:
    """A PNG whose chunks have right checksums, as far as it is one: a change of their contents is read, not refused."""
    made, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        if end + 4 > len(data):
            break
        made += (data[at:end], zlib.crc32(data[at + 4 : end]).to_bytes(4, "big"))
        at = end + 4
    return b"".join((*made, data[at:]))


def changed_text(numbers: random.Random, text: str) -> str:
    """A few changes of a text of lines: words, values, lines and indentation."""
    lines = text.split("\n")
    for _ in range(numbers.choice((1, 1, 2, 3, 8))):
        at = numbers.randrange(len(lines))
        line = lines[at]
        kind = numbers.randrange(9)
        if kind == 0:
            lines[at] = f"{line.partition(':')[0]}: {numbers.choice(WORDS)}"
        elif kind == 1:
            words = line.split(" ")
            words[numbers.randrange(len(words))] = numbers.choice(WORDS)
            lines[at] = " ".join(words)
        elif kind == 2:
            place = numbers.randrange(len(line) + 1)
            lines[at] = line[:place] + numbers.choice((*WORDS, *":,[]{}#&*!|>'\"%@`\\")) + line[place:]
        elif kind == 3:
            lines[at] = " " * numbers.randrange(6) + line.lstrip()
        elif kind == 4:
            lines.insert(at, numbers.choice(lines))
        elif kind == 5:
            del lines[at]
            lines = lines or [""]
        elif kind == 6:
            lines[at] = numbers.choice(WORDS)
        elif kind == 7:
            lines[at : at + 1] = [line] * numbers.choice((2, 3, 50))
        else:
            place = numbers.randrange(len(line) + 1)
            lines[at] = (
                line[:place] + chr(numbers.choice((numbers.randrange(32), numbers.randrange(0xD800)))) + line[place:]
            )
    return "\n".join(lines)


def changed_json(numbers: random.Random, value: Any) -> Any:
    """A JSON value with one part replaced, taken out, or renamed."""
    if isinstance(value, dict) and value and numbers.random() < 0.85:
        key = numbers.choice(sorted(value))
        rest = {name: part for name, part in value.items() if name != key}
        kind = numbers.randrange(8)
        if kind == 0:
            return rest
        if kind == 1:
            return {**rest, numbers.choice(("", "\ud83d", key.upper(), key + " ", "__class__")): value[key]}
        return {**rest, key: changed_json(numbers, value[key])}
    if isinstance(value, list) and value and numbers.random() < 0.85:
        at = numbers.randrange(len(value))
        kind = numbers.randrange(8)
        if kind == 0:
            return value[:at] + value[at + 1 :]
        if kind == 1:
            return value + value[at : at + 1] * numbers.choice((1, 1, 100))
        return [*value[:at], changed_json(numbers, value[at]), *value[at + 1 :]]
    return numbers.choice(VALUES)


def json_bytes(value: Any) -> bytes:
    """JSON as Python writes it, NaN and lone surrogates included."""
    return json.dumps(value).encode()


def changed_archive(
    numbers: random.Random, data: bytes, change: Callable[[random.Random, str, bytes], bytes] | None = None
) -> bytes:
    """A zip archive with the contents, the name or the packing of one entry changed; its sums are right again."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = [(entry.filename, archive.read(entry)) for entry in archive.infolist()]
    at = numbers.randrange(len(entries))
    # The program, or the pickle, is what most readers take apart.
    telling = [index for index, (name, _) in enumerate(entries) if name.endswith((".pkl", ".py", ".json"))]
    if telling and numbers.random() < 0.7:
        at = numbers.choice(telling)
    name, content = entries[at]
    kind = numbers.randrange(8)
    if kind == 0:
        name = numbers.choice(
            (name.upper(), f"../{name}", name.replace("/", "\\"), f"/{name}", f"{name}\0x", "x/" + name)
        )
    elif kind == 1:
        del entries[at]
        entries = entries or [("x", b"")]
        at = min(at, len(entries) - 1)
        name, content = entries[at]
    else:
        content = changed_bytes(numbers, content) if change is None else change(numbers, name, content)
    entries[at] = (name, content)
    made = io.BytesIO()
    packing = numbers.choice((zipfile.ZIP_STORED, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(made, "w", packing) as archive:
        for entry, body in entries:
            archive.writestr(zipfile.ZipInfo(entry), body, packing)
    return made.getvalue()


def changed_message(numbers: random.Random, data: bytes) -> bytes:
    """A protocol buffer with a field changed, taken out or doubled, however deep; the lengths around it are right."""
    fields = _fields(data)
    if not fields:
        return changed_bytes(numbers, data)
    at = numbers.randrange(len(fields))
    number, wire, content = fields[at]
    kind = numbers.randrange(10)
    if kind == 0:
        del fields[at]
    elif kind == 1:
        fields.insert(at, fields[at])
    elif wire == 0:
        fields[at] = (number, wire, _varint(numbers.choice((0, 1, 7, 1 << 31, (1 << 32) - 1, 1 << 40, (1 << 64) - 1))))
    elif wire == 2:
        fields[at] = (number, wire, changed_message(numbers, content))
    else:
        fields[at] = (number, wire, bytes(numbers.randrange(256) for _ in content))
    return b"".join(_field(*field) for field in fields)


def _fields(data: bytes) -> list[tuple[int, int, bytes]]:
    """The fields of a protocol buffer, each its number, its kind on the wire and its content; none where it is none."""
    found, at = [], 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        number, wire = tag >> 3, tag & 7
        start = at
        if wire == 0:
            _, at = _read_varint(data, at)
        elif wire == 2:
            length, start = _read_varint(data, at)
            at = start + length
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        else:
            return []
        if not number or at > len(data):
            return []
        found.append((number, wire, data[start:at]))
    return found


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data):
        value |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if not data[at - 1] & 128:
            return value, at
    return 0, len(data) + 1


def _varint(value: int) -> bytes:
    made = bytearray()
    while value > 127:
        made.append(value & 127 | 128)
        value >>= 7
    return bytes((*made, value))


def _field(number: int, wire: int, content: bytes) -> bytes:
    return _varint(number << 3 | wire) + (_varint(len(content)) if wire == 2 else b"") + content
