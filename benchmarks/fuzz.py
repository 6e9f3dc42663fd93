"""Every wall of segc against seeded inputs that mean harm or are merely broken: tried and survived, a class a row.

    python benchmarks/fuzz.py [--share 0.1] [--only KIND …] [--artifacts build/artifacts] [--seed 0] [--json FILE]
    python benchmarks/fuzz.py --only images --seed 0 --from 107 --to 108

`--share` takes a part of each class's inputs; those made by hand are all tried. An input is survived where it is read
or refused in segc's own words: no other exception, no line of anybody else's on the terminal, no control character in
ours, within its class's seconds and memory, and with the process alive. The classes are the rows of `fuzz_kinds.KINDS`,
and what the tests make by hand; with `--artifacts`, the folder that `segc emit` left, there are up to three more for
each target in it. Each runs in a process of its own, which is started again behind the input that ended it. The same
seed gives the same inputs.
"""

import argparse
import contextlib
import json
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.fuzz_artifacts import artifact_kinds
from benchmarks.fuzz_kinds import KINDS, Kind, rows_kind
from benchmarks.fuzz_kinds import shown as shown_diagnostics

PROGRAMS = "crafted in tests"
"""The class of inputs made by hand whose makers stand in tests: it needs those, and all runtimes."""

MOST_FAILURES = 20
"""Failures of a class that are told one by one."""


@dataclass
class Tally:
    """What came of a class.

    Attributes:
        tried: inputs.
        accepted: read as if nothing were wrong with them.
        refused: refused in segc's words.
        failed: neither; the first ones are in `failures`.
        slowest: seconds of the slowest input.
        seconds: of all of them, of processor time as is `slowest`: the machine may be busy with other things.
    """

    tried: int = 0
    accepted: int = 0
    refused: int = 0
    failed: int = 0
    slowest: float = 0.0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def take(self, number: int, outcome: str, seconds: float) -> None:
        """Count one input."""
        self.tried += 1
        self.seconds += seconds
        self.slowest = max(self.slowest, seconds)
        if outcome in ("accepted", "refused"):
            setattr(self, outcome, getattr(self, outcome) + 1)
            return
        self.failed += 1
        if len(self.failures) < MOST_FAILURES:
            self.failures.append(f"input {number}: {outcome}")

    def add(self, other: "Tally") -> None:
        """Count those of another tally, too."""
        for name in ("tried", "accepted", "refused", "failed", "seconds", "failures"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.slowest = max(self.slowest, other.slowest)


def one(kind: Kind, seed: int, number: int, folder: Path) -> str:
    """Try one input; "accepted", "refused", or what went wrong."""
    made = kind.input(seed, number, folder)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.process_time()
    try:
        outcome = kind.run(made, folder)
    except Exception as error:  # noqa: BLE001 - which ones are allowed is the question
        if not {kin.__name__ for kin in type(error).__mro__} & set(kind.refusals):
            return f"{type(error).__name__}: {str(error)[:300]}"
        shown_diagnostics(getattr(error, "diagnostics", ()))
        outcome = "refused"
    seconds = time.process_time() - started
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10
    if seconds > kind.seconds:
        return f"took {seconds:.1f} s"
    if number and grown > kind.megabytes:
        return f"took {grown} MB"
    return outcome


@contextlib.contextmanager
def _overheard() -> Iterator[tempfile._TemporaryFileWrapper]:
    """A file that holds what is written to standard output and error, by whomever."""
    with tempfile.NamedTemporaryFile() as heard:
        kept = [os.dup(stream) for stream in (1, 2)]
        for stream in (1, 2):
            os.dup2(heard.fileno(), stream)
        try:
            yield heard
        finally:
            for stream, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, stream)
                os.close(copy)


def try_all(kind: Kind, seed: int, inputs: range, folder: Path) -> Iterator[tuple[int, str, float]]:
    """Try inputs in this process; each one's number, outcome and seconds, and before it its number alone."""
    home = Path.cwd()
    os.chdir(folder)
    # What is imported by the first input is not its cost.
    with _overheard(), contextlib.suppress(Exception):
        kind.run(kind.input(seed, -1, folder), folder)
    try:
        for number in inputs:
            yield number, "", 0.0
            started = time.process_time()
            with _overheard() as heard:
                outcome = one(kind, seed, number, folder)
                sys.stdout.flush()
                said = Path(heard.name).read_bytes()
            if said and outcome in ("accepted", "refused") and kind.needs is None:
                outcome = f"wrote to the terminal: {said[:200]!r}"
            yield number, outcome, time.process_time() - started
    finally:
        os.chdir(home)


def _child(kind: Kind, seed: int, inputs: range, results: Path) -> None:
    """Try inputs and write a line for each, before and after it."""
    with tempfile.TemporaryDirectory(prefix="segc-fuzz-") as folder, results.open("a", buffering=1) as lines:
        for result in try_all(kind, seed, inputs, Path(folder)):
            lines.write(json.dumps(result) + "\n")


def in_process_of_its_own(kind: Kind, seed: int, inputs: range, arguments: list[str], *, alone: bool = False) -> Tally:
    """Try a class's inputs in child processes: one that ends, or hangs, costs its input and is started again.

    Args:
        kind: the class.
        seed: of its inputs.
        inputs: their numbers.
        arguments: of the child processes, beside these.
        alone: let `Kind.alone` read them; otherwise that reads those which end the process.
    """
    tally, start = Tally(), inputs.start
    with tempfile.TemporaryDirectory(prefix="segc-fuzz-") as folder:
        results = Path(folder) / "results"
        while start < inputs.stop:
            results.write_text("")
            command = [sys.executable, __file__, "--child", str(results), f"--only={kind.name}", "--seed", str(seed)]
            command += ["--from", str(start), "--to", str(inputs.stop), *arguments, *["--alone"] * alone]
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE)
            hung = _wait(child, results, 3 * kind.seconds + 60)
            words = (child.stderr.read() if child.stderr else b"").decode(errors="replace")
            open_input = None
            for line in results.read_text().splitlines():
                number, outcome, seconds = json.loads(line)
                open_input = None if outcome else number
                if outcome:
                    tally.take(number, outcome, seconds)
                    start = number + 1
            if open_input is None and child.returncode and start < inputs.stop:
                raise RuntimeError(f"{kind.name}: the process that tries inputs did not start: {words[-2000:]}")
            if open_input is not None:
                start = open_input + 1
                if kind.alone is not None and not alone:
                    tally.add(in_process_of_its_own(kind, seed, range(open_input, start), arguments, alone=True))
                    continue
                ending = "hung" if hung else _ending(child.returncode)
                tally.take(open_input, f"the process {ending}: {words.strip()[-200:]}", 0.0)
    return tally


def _wait(child: subprocess.Popen[bytes], results: Path, patience: float) -> bool:
    """Wait for a process as long as it gets on; whether it had to be ended."""
    size, since = -1, time.monotonic()
    while child.poll() is None:
        time.sleep(0.1)
        now = results.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        elif time.monotonic() - since > patience:
            child.kill()
            child.wait()
            return True
    return False


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with status {code}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="part of each class's inputs")
    parser.add_argument("--only", nargs="+", metavar="KIND", help="classes by their names, or by the first word of it")
    parser.add_argument("--artifacts", type=Path, help="a folder of artifacts to try, too")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--from", dest="start", type=int, default=0, metavar="N", help="first input")
    parser.add_argument("--to", dest="stop", type=int, metavar="N", help="input to stop before")
    parser.add_argument("--json", type=Path, help="write the figures there")
    parser.add_argument("--child", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> int:
    """Run the classes; exit status 1 where an input was not survived."""
    options = _arguments()
    kinds = list(KINDS)
    if options.artifacts is not None:
        kinds += artifact_kinds(options.artifacts.resolve())
    if not options.only or PROGRAMS in options.only:
        from benchmarks.crafted_tests import rows

        kinds.append(rows_kind(PROGRAMS, rows(), seconds=120, megabytes=4000, needs="the tests"))
    if options.only:
        kinds = [kind for kind in kinds if kind.name in options.only or kind.name.partition(" ")[0] in options.only]
    if options.child is not None:
        (kind,) = (kind for kind in kinds if kind.name == options.only[0])
        if options.alone and kind.alone is not None:
            kind = replace(kind, run=kind.alone)
        _child(kind, options.seed, range(options.start, options.stop), options.child)
        return 0
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, seed {options.seed}")
    heads = ("class", "tried", "read", "refused", "failed", "slowest, CPU s", "inputs a CPU second")
    print(f"| {' | '.join(heads)} |\n| --- {'| ---: ' * (len(heads) - 1)}|")
    rest = [] if options.artifacts is None else ["--artifacts", str(options.artifacts.resolve())]
    tallies = {}
    for kind in kinds:
        stop = options.stop or (kind.inputs if kind.rows else max(1, round(kind.inputs * options.share)))
        tally = in_process_of_its_own(kind, options.seed, range(options.start, stop), rest)
        tallies[kind.name] = tally
        rate = tally.tried / max(tally.seconds, 1e-9)
        figures = (tally.tried, tally.accepted, tally.refused, tally.failed, f"{tally.slowest:.2f}", f"{rate:.1f}")
        print(f"| {kind.name} | {' | '.join(map(str, figures))} |", flush=True)
        for failure in tally.failures:
            print(f"  {failure!r}", file=sys.stderr, flush=True)
    if options.json is not None:
        found = {"seed": options.seed, "classes": {name: asdict(tally) for name, tally in tallies.items()}}
        options.json.write_text(json.dumps(found, indent=2) + "\n")
    return int(any(tally.failed for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
