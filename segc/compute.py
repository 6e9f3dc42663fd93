"""How a process that is about to compute is set up: processors, memory, talk. Nothing here changes a result."""

import math
import os
import sys
from pathlib import Path

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "GLOG_minloglevel": "2", "ORT_DISABLE_TELEMETRY": "1"}
"""What keeps TensorFlow and Paddle from talking while they are imported, and onnxruntime from telling its makers."""

_SPINS = "2000"
"""Times that a thread looks for work before it sleeps: some fifty microseconds, longer than most waits in a network."""

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4
_NEVER, _NONE = -1, 0


def prepare_to_compute() -> None:
    """Have threads wait briefly and freed memory stay at hand. To be called before torch is imported.

    Threads of OpenMP keep their processors busy while they wait for work. As soon as something else needs a processor,
    such as the workers that make the batches, a network then takes several times as long; threads that sleep at once
    lose up to a fifth of the time to waking up. So they look around for some fifty microseconds. There are as many as
    this process may use processors, which can be fewer than the machine has. What the environment says stands.

    glibc gives large blocks back to the system as soon as they are freed, and the system clears every page that it
    hands out again: a step of training would get most of its activations in that way. Where there is no glibc nothing
    changes.
    """
    import ctypes

    if processors() < (os.cpu_count() or 1):
        os.environ.setdefault("OMP_NUM_THREADS", str(processors()))
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):
        mallopt(_M_MMAP_MAX, _NONE)
        mallopt(_M_TRIM_THRESHOLD, _NEVER)


_SMALL = 4 << 30


def small_memory() -> int | None:
    """Bytes of addresses that this process may use, as by ``ulimit -v``, where libraries may fail for want of them."""
    if sys.platform == "win32":
        return None
    import resource

    allowed, _ = resource.getrlimit(resource.RLIMIT_AS)
    return allowed if 0 <= allowed < _SMALL else None


_GROUPS = Path("/sys/fs/cgroup")


def processors(groups: Path = _GROUPS) -> int:
    """Processors that this process may use: by its affinity, and by the limit of its control group, rounded up."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = []
    for folder in _own_groups(groups):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        if not quota:  # the first version of control groups
            quota, period = _text(folder / "cpu" / "cpu.cfs_quota_us"), _text(folder / "cpu" / "cpu.cfs_period_us")
        if quota.isdecimal() and period.isdecimal() and int(period):
            shares.append(math.ceil(int(quota) / int(period)))
    return max(min(allowed, *shares), 1) if shares else allowed


def memory_limit(groups: Path = _GROUPS) -> int:
    """Bytes of memory that this process may use: the machine's, or the limit of its control group."""
    import psutil

    limits = [int(psutil.virtual_memory().total)]
    for folder in _own_groups(groups):
        found = (_text(folder / name) for name in ("memory.max", "memory/memory.limit_in_bytes"))
        limits += [int(text) for text in found if text.isdecimal()]
    return min(limits)


def _own_groups(groups: Path) -> list[Path]:
    """The control group that this process is in, and all above it: the tightest limit counts."""
    own = _text(Path("/proc/self/cgroup")).rpartition("0::/")[2].partition("\n")[0] if groups == _GROUPS else ""
    folder = groups / own
    return [folder, *(above for above in folder.parents if above.is_relative_to(groups))]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""
