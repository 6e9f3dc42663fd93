"""Where segc keeps what it can make or fetch again."""

import os
from pathlib import Path


def cache_folder(part: str) -> Path:
    """A part of the cache, such as ``weights``: in ``SEGC_CACHE``, else in the platform's folder for caches.

    It need not be there.
    """
    if named := os.environ.get("SEGC_CACHE"):
        return Path(named).absolute() / part
    from platformdirs import user_cache_path

    return user_cache_path("segc", appauthor=False) / part
