"""How a process that computes uses processors and memory; each is looked at in a process of its own."""

import platform
import subprocess
import sys

import pytest

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
