"""``python -m segc``."""

from segc.cli import main

main()
