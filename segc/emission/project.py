"""Emission: from trained weights to verified artifact folders, a worker process for everything heavy.

Targets are emitted side by side. For each, one worker writes the model and another, fresh one runs it on photographs;
PyTorch's answers to the same photographs are worked out once for all targets of one input size, and compared here. An
artifact folder appears whole, once its verification is done. One that fails goes to ``artifacts/<target>.failed/``,
which nothing opens, and the last good one stays where it is. An artifact that is what would be emitted is left alone.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from segc.compute import processors
from segc.diagnostics import Diagnostic, SegcError, fail
from segc.emission.order import Emission, Job, Order
from segc.emission.publish import weights_digest
from segc.emission.reference import TORCH, References, hire_reference
from segc.emission.worker import Limits, WorkerPool
from segc.files import canonical_json, sweep, write_atomic
from segc.locks import TemporaryFolder, exclusive
from segc.targets.contract import CALIBRATED, check_packages
from segc.targets.description import DESCRIPTION
from segc.targets.registry import artifact_name, find_target, refusals, targets

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from segc.spec.load import LoadedProject
    from segc.targets.contract import Target, TargetOptions
    from segc.weights.lineage import Lineage

TIME_LIMIT = 900.0
"""Seconds that a worker may take, unless told otherwise."""


def requested(loaded: LoadedProject, names: Sequence[str]) -> tuple[TargetOptions, ...]:
    """The options to emit: those of the spec, or of the named artifacts and targets, in the spec or else by default.

    Args:
        loaded: the project.
        names: names of artifacts in the spec, or names or aliases of targets: all entries of the spec that are of one,
            or its default options; empty for all of the spec, ``all`` for all targets there are.

    Raises:
        SegcError: T001 for a name that nothing has, or where nothing is asked for; X210 for what a target cannot do.
    """
    given = {artifact_name(options): options for options in loaded.project.targets}
    if not names and not given:
        raise fail(
            "T001",
            "the project lists no targets",
            file=loaded.path,
            help=f"add `targets:` to it, or name one: --target {next(iter(targets()))}",
        )
    chosen: dict[str, TargetOptions] = dict(given) if not names else {}
    for name in list(targets()) if "all" in names else names:
        if name in given:
            chosen[name] = given[name]
            continue
        target = find_target(name, tuple(given))
        own = {key: options for key, options in given.items() if options.format == target.name}
        chosen |= own or {target.name: target.default_options()}
    found = [
        Diagnostic("X210", f"{name}: {'.'.join(path)}: {message}", file=loaded.path)
        for name, options in chosen.items()
        for path, message in refusals(options, loaded.project.hyperparameters.size)
    ]
    if found:
        raise SegcError(found)
    return tuple(chosen.values())


def emit_project(
    loaded: LoadedProject,
    build_dir: Path,
    names: Sequence[str] = (),
    *,
    weights: Path | None = None,
    untrained: bool = False,
    force: bool = False,
    jobs: int = 0,
    time_limit: float = TIME_LIMIT,
    memory_limit: int = 0,
    warn: Callable[[Sequence[Diagnostic]], None] = lambda _: None,
    watch: Callable[[str, str], None] = lambda _target, _state: None,
    finished: Callable[[Emission], None] = lambda _emission: None,
) -> list[Emission]:
    """Emit artifacts into ``<build_dir>/artifacts/<target>/`` and verify each against PyTorch on dataset images.

    Args:
        loaded: the project.
        build_dir: the build directory.
        names: as for :func:`requested`.
        weights: weights to take instead of the build directory's.
        untrained: take seeded weights from the start of training instead of trained ones.
        force: emit again what is up to date.
        jobs: targets at a time; 0 for as many as there are processors.
        time_limit: seconds that each worker process may take.
        memory_limit: bytes that each worker process, with the processes it starts, may hold; 0 for three quarters of
            the machine's.
        warn: is told at once what the user should hear about the weights.
        watch: is told what is being done with a target; called from several threads.
        finished: likewise, what came of it.

    Returns:
        One result a target; what goes wrong with one does not stop the others.

    Raises:
        SegcError: for what concerns all of them: names, refusals, PyTorch missing, weights, images.
    """
    wanted = requested(loaded, names)
    if problem := TORCH.problem():
        raise fail("F004", f"{problem}: artifacts are verified against it", help="pip install 'segc[train]'")
    faults = {artifact_name(options): _faults(targets()[options.format], options) for options in wanted}
    artifacts = build_dir / "artifacts"
    emitting = [name for name, found in faults.items() if not found]
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(Limits(time_limit, memory_limit), build_dir / "logs"))
        spare = None
        if force or any(not (artifacts / name / DESCRIPTION).exists() for name in emitting):
            spare = hire_reference(pool)  # The slowest import starts before anything is read.
        job = _prepare(loaded, build_dir, weights, untrained=untrained)
        stack.enter_context(exclusive(build_dir / ".emit.lock", f"an emission into {artifacts}"))
        work = stack.enter_context(TemporaryFolder("emit"))
        sweep(artifacts)
        references = References(pool, work / "references", loaded, job.weights, job.images, spare)
        if job.warnings:
            warn(job.warnings)

        def one(number: int, options: TargetOptions) -> Emission:
            started = time.perf_counter()
            name = artifact_name(options)
            made = Emission(name, options.format, "error", diagnostics=faults[name])
            try:
                if not made.diagnostics:
                    made = Order(job, options, work / str(number)).carry_out(pool, references, watch, force=force)
            except SegcError as error:
                made = replace(made, diagnostics=error.diagnostics)
            made = replace(made, seconds=time.perf_counter() - started)
            finished(made)
            return made

        threads = stack.enter_context(ThreadPoolExecutor(jobs or processors()))
        try:
            futures = {number: threads.submit(one, number, options) for number, options in _longest_first(wanted)}
            return [futures[number].result() for number in range(len(wanted))]
        except BaseException:
            pool.stop()
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def rank_project(
    loaded: LoadedProject,
    build_dir: Path,
    names: Sequence[str] = (),
    *,
    weights: Path | None = None,
    untrained: bool = False,
    time_limit: float = TIME_LIMIT,
    memory_limit: int = 0,
    warn: Callable[[Sequence[Diagnostic]], None] = lambda _: None,
) -> dict[str, list[dict[str, Any]]]:
    """Rank the scopes of the network by the error that eight bits bring there, as each int8 artifact rounds them.

    A ranking is kept in ``<build_dir>/sensitivity/<artifact>.json``; ``segc.emission.sensitivity`` says what is in it.

    Args:
        loaded: the project.
        build_dir: the build directory.
        names: as for :func:`requested`.
        weights: weights to take instead of the build directory's.
        untrained: take seeded weights from the start of training instead of trained ones.
        time_limit: seconds that each worker process may take.
        memory_limit: bytes that each worker process may hold; 0 for three quarters of the machine's.
        warn: is told at once what the user should hear about the weights.

    Returns:
        Each artifact's ranking, the worst scope first.

    Raises:
        SegcError: X210 where what is rounded is not segc's to say; else as :func:`emit_project`.
    """
    wanted = requested(loaded, names)
    if problem := TORCH.problem():
        raise fail("F004", f"{problem}: scopes are ranked with it", help="pip install 'segc[train]'")
    found = {}
    with ExitStack() as stack:
        pool = stack.enter_context(WorkerPool(Limits(time_limit, memory_limit), build_dir / "logs"))
        job = _prepare(loaded, build_dir, weights, untrained=untrained)
        work = stack.enter_context(TemporaryFolder("emit"))
        references = References(pool, work / "references", loaded, job.weights, job.images)
        if job.warnings:
            warn(job.warnings)
        orders = [Order(job, options, work / str(number)) for number, options in enumerate(wanted)]
        for order in orders:
            order.check_ranking()
        for order in orders:
            found[order.name] = order.ranking(pool, references)
            record = {"artifact": order.name, "weights": job.weights_digest, "scopes": found[order.name]}
            write_atomic(build_dir / "sensitivity" / f"{order.name}.json", canonical_json(record))
    return found


def _longest_first(wanted: Sequence[TargetOptions]) -> list[tuple[int, TargetOptions]]:
    """The targets with their numbers, those that are calibrated first: all others are done beside them."""
    return sorted(enumerate(wanted), key=lambda entry: not _is_calibrated(entry[1]))


def _is_calibrated(options: TargetOptions) -> bool:
    return targets()[options.format].precision(options) in CALIBRATED


def _faults(target: Target, options: TargetOptions) -> tuple[Diagnostic, ...]:
    """Why this machine cannot emit a target with these options."""
    try:
        check_packages(target, (*target.requirements(options), *target.needed))
    except SegcError as error:
        return error.diagnostics
    problem = target.environment(options) or target.run_environment()
    return (Diagnostic("T003", f"{target.name}: {problem}"),) if problem else ()


def _prepare(loaded: LoadedProject, build_dir: Path, weights: Path | None, *, untrained: bool) -> Job:
    from segc.build import project_graph
    from segc.data.dataset import list_images

    graph = project_graph(loaded.project)
    values: Mapping[str, Any]
    warnings: Sequence[Diagnostic] = ()
    descent: Lineage = ()
    if untrained:
        from segc.network.initialise import initial_weights

        values = initial_weights(graph.parameters, loaded.project.hyperparameters.seed)
    else:
        from segc.weights.lineage import stated
        from segc.weights.resolve import trained_weights

        found = trained_weights(loaded, build_dir, graph, weights)
        values, warnings, descent = found.tensors, found.warnings, stated(found.metadata)
    images = list_images(loaded, "val")
    return Job(loaded, build_dir, values, not untrained, descent, weights_digest(values), images, warnings)
