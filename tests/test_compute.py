"""How a process that computes uses processors and memory; each is looked at in a process of its own."""

import os
import platform
import subprocess
import sys

import pytest

from segc.compute import memory_limit, processors

SAY = "import os; print(os.environ.get('GOMP_SPINCOUNT'), os.environ.get('OMP_WAIT_POLICY'))"

FAULTS = """
import resource
import numpy as np

def new_pages(times):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.ones(32 * 2**20, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

new_pages(1)
print(new_pages(10))
"""


def output_of(code: str, **environment: str) -> str:
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return done.stdout.strip()


PREPARED = "from segc.compute import prepare_to_compute; prepare_to_compute()\n"


def test_threads_look_for_work_a_little_before_they_sleep():
    spins, policy = output_of(PREPARED + SAY).split()
    assert 100 < int(spins) < 100_000
    assert policy == "None"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [("GOMP_SPINCOUNT", "7", "7 None"), ("OMP_WAIT_POLICY", "ACTIVE", "None ACTIVE")],
)
def test_what_the_environment_says_of_threads_stands(name, value, said):
    assert output_of(PREPARED + SAY, **{name: value}) == said


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="there is no glibc, whose allocator this is about")
def test_freed_memory_is_used_again_without_new_pages():
    pages_of_ten_arrays = 10 * 32 * 2**20 // 4096
    assert int(output_of(FAULTS)) > pages_of_ten_arrays // 1024  # even where pages are huge ones
    assert int(output_of(PREPARED + FAULTS)) < pages_of_ten_arrays // 1024


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 4),
        ({"cpu.max": "max 100000"}, 4),
        ({"cpu.max": "250000 100000"}, 3),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "900000 100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"}, 2),
        ({"cpu.max": "nonsense"}, 4),
    ],
)
def test_processors_are_those_that_affinity_and_control_group_leave(tmp_path, monkeypatch, files, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(4)), raising=False)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert processors(tmp_path) == expected


def test_memory_is_that_of_the_control_group_where_it_has_a_limit(tmp_path):
    whole = memory_limit(tmp_path)
    assert whole > 2**28
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_limit(tmp_path) == whole
    (tmp_path / "memory.max").write_text("268435456\n")
    assert memory_limit(tmp_path) == 2**28
