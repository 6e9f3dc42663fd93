"""Text that comes from files, servers and names of files, as it may be shown."""


def printable(text: object) -> str:
    r"""A text as it may be shown: what would move the cursor, change colours or start a line is escaped.

    Escapes are Python's: ``\x1b``, ``\n``, ``\udcff`` for a byte of a file name that is no UTF-8.
    """
    shown = str(text)
    return shown if shown.isprintable() else "".join(map(_printable_character, shown))


def _printable_character(character: str) -> str:
    return character if character.isprintable() else character.encode("unicode_escape").decode()
