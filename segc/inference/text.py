"""Text that comes from files, servers and names of files, as it may be shown."""


def printable(text: object) -> str:
    """A text as it may be shown: what would move the cursor, change colours or start a line is escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
