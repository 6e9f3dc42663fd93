"""How a process that is about to compute uses processors and memory. Nothing here changes a result."""

import os
import sys

_SPINS = "2000"
"""Times that a thread looks for work before it sleeps: some fifty microseconds, longer than most waits in a network."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER, _NONE = -1, 0


def prepare_to_compute() -> None:
    """Have threads wait briefly and freed memory stay at hand. To be called before torch is imported.

    Threads of OpenMP keep their processors busy while they wait for work. As soon as something else needs a processor,
    such as the workers that make the batches, a network then takes several times as long; threads that sleep at once
    lose up to a fifth of the time to waking up. So they look around for some fifty microseconds. What the environment
    says stands.

    glibc gives large blocks back to the system as soon as they are freed, and the system clears every page that it
    hands out again: a step of training would get most of its activations in that way. Where there is no glibc nothing
    changes.
    """
    import ctypes

    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_M_MMAP_MAX, _NONE)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)
