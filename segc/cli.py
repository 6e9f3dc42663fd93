"""The command line: finds the command, runs it, and turns what went wrong into one clear message."""

import errno
import gc
import importlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from io import TextIOWrapper
from pathlib import Path
from typing import NoReturn

import click

from segc.compute import small_memory
from segc.diagnostics import Diagnostic, SegcError, render_text, wants_colour
from segc.interrupts import end_by_itself, end_cleanly, exit_status, fork_and_pass_on, raised
from segc.version import __version__

COMMANDS = {
    "init": "write a commented project.yaml",
    "validate": "check project files in milliseconds",
    "build": "compile a project: lock, graph, layer table, training plan",
    "train": "train, or continue with --resume",
    "tune": "search hyperparameters, every trial a run",
    "val": "measure boxes and masks on weights or an artifact",
    "predict": "segment images, folders, globs and URLs",
    "emit": "write verified artifacts with their predict scripts",
    "data": "convert, check, look at and divide datasets",
    "bench": "time, memory and accuracy of all artifacts side by side",
    "doctor": "which targets can be emitted and run here, and what is missing",
    "runs": "list, compare, choose and remove trainings",
    "weights": "fetch, import, inspect and export weights; licences",
    "schema": "print the JSON Schema of project.yaml",
    "explain": "what a diagnostic means and how it is mended",
}
"""Command to the line that ``segc --help`` shows; the code is in ``segc.commands.<command>``."""


class _Commands(click.Group):
    """Loads a command's module when it is asked for, so that `--help` and light commands start at once."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"segc.commands.{cmd_name}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            if near := get_close_matches(args[0], COMMANDS, 1):
                raise click.UsageError(f"{error.message} Did you mean '{near[0]}'?", ctx) from None
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", message="segc %(version)s")
def root() -> None:
    """Compile one project.yaml into a trained, verified, deployable segmentation model."""


def main() -> NoReturn:
    """Run the command line.

    Exit status: 0 done, 1 an error in the input or on the machine, 2 wrong usage, 128 and its number for a signal.
    """
    # pydantic would look through the metadata of every installed package for plug-ins, a fifth of `segc validate`.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    # Names of files may hold bytes that are no UTF-8; standard error escapes them by itself.
    if isinstance(sys.stdout, TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    end_cleanly()
    allowed = small_memory()
    status = run(sys.argv[1:]) if allowed is None else _run_watched(sys.argv[1:], allowed)
    end_by_itself()
    # What is left goes with the process: Python would look through it for cycles first, a fifth of `segc validate`.
    gc.freeze()
    sys.exit(status)


def _run_watched(arguments: list[str], allowed: int) -> int:
    """Run one command in a process of its own, so that a library that memory brings down is a diagnostic, too."""
    # Each thread of it takes tens of megabytes of addresses, and crashes where they are not to be had.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    child = fork_and_pass_on()
    if child == 0:
        return run(arguments)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code >= 0:
        return code
    name = signal.Signals(-code).name
    if name not in _CRASHES:
        return 128 - code
    fault = _starved(f"ended with {name}", allowed)
    click.echo(render_text((fault,), colour=wants_colour(sys.stderr)), err=True, nl=False)
    return 1


_CRASHES = {"SIGSEGV", "SIGABRT", "SIGBUS", "SIGILL", "SIGFPE"}
"""How libraries end whose authors did not think of allocations that fail."""


def run(arguments: list[str]) -> int:
    """Run one command and give its exit status."""
    try:
        status = root.main(arguments, prog_name="segc", standalone_mode=False)
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.ClickException as error:
        _with_hint(error).show()
        return error.exit_code
    except (KeyboardInterrupt, click.Abort) as stop:
        # click wraps a KeyboardInterrupt, and signals with it.
        cause = stop if isinstance(stop, KeyboardInterrupt) else stop.__cause__ or stop.__context__
        click.echo("interrupted", err=True)
        return exit_status(cause) if isinstance(cause, KeyboardInterrupt) else exit_status(KeyboardInterrupt())
    except SegcError as error:
        if (asked := raised()) is not None:
            click.echo("interrupted", err=True)
            return exit_status(asked)
        _show(error.diagnostics, error)
        return 1
    except BrokenPipeError:
        # The reader went away (`segc schema | head`); nothing is left to say, not even at interpreter exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (ImportError, MemoryError, OSError, RuntimeError) as error:
        if (fault := _fault(error)) is None:
            raise
        _show((fault,), error)
        return 1
    return status if isinstance(status, int) else 0


def _starved(how: str, allowed: int) -> Diagnostic:
    """What to say of a library that did not bear a limit of memory."""
    text = f"a library {how}, where {allowed >> 20} MB of memory are allowed"
    return Diagnostic("F008", text, help="give the process more memory (ulimit -v)")


def _show(diagnostics: Sequence[Diagnostic], error: BaseException) -> None:
    """Show what went wrong; notes that a command added to the error are ways out, too."""
    *others, last = diagnostics
    ways_out = filter(None, (last.help, *getattr(error, "__notes__", ())))
    shown = (*others, replace(last, help="; ".join(ways_out) or None))
    click.echo(render_text(shown, colour=wants_colour(sys.stderr)), err=True, nl=False)


def _with_hint(error: click.ClickException) -> click.ClickException:
    """A usage error that says how a key of the project is set which was taken for an option of the command line."""
    if not isinstance(error, click.NoSuchOption):
        return error
    from segc.spec.remedies import option_hint

    hint = option_hint(error.option_name)
    text = f"No such option '{error.option_name}': {hint}."
    return error if hint is None else click.NoSuchOption(error.option_name, text, ctx=error.ctx)


def _fault(error: ImportError | MemoryError | OSError | RuntimeError) -> Diagnostic | None:
    """What to say about a fault of the machine; None for what is a bug."""
    if isinstance(error, RuntimeError):
        # Libraries have no error of their own for memory that they do not get.
        allowed = small_memory() if type(error) is RuntimeError else None
        return None if allowed is None else _starved(f"failed ({' '.join(str(error).split())[:200]})", allowed)
    if isinstance(error, MemoryError):
        reason = f": {error}" if str(error) else ""
        return Diagnostic("F008", f"the memory ran out{reason}", help="free some, or raise its limit")
    if isinstance(error, OSError):
        return _machine_fault(error)
    if isinstance(error, ModuleNotFoundError):
        return None if (error.name or "").startswith("segc") else missing_package(error)
    return _unloadable(error)


TRAINING_PACKAGES = ("torch", "faster_coco_eval")
"""What the extra `train` brings; a target says itself what its own extra brings."""


BESIDE = {"optuna": "tune", "fsspec": "remote", "ray": "ray", "pandas": "pandas", "supervision": "supervision"}
"""Packages that are needed for one thing alone, and their extras."""


def missing_package(error: ModuleNotFoundError) -> Diagnostic:
    """What to say where an optional package is not installed; segc never installs one itself."""
    from segc.targets.registry import targets

    package = (error.name or "").partition(".")[0]
    every = [(t, r) for t in targets().values() for r in (*t.requirements(t.default_options()), *t.needed)]
    extras = {r.module: t.extra for t, r in every}
    extra = (extras | dict.fromkeys(TRAINING_PACKAGES, "train") | BESIDE).get(package)
    advice = f"pip install 'segc[{extra}]'" if extra else f"pip install {package}"
    return Diagnostic("F004", f"the package {package} is needed for this and is not installed", help=advice)


def _unloadable(error: ImportError) -> Diagnostic | None:
    """What to say where the system cannot load a package's library; None for other errors of an import."""
    found: BaseException | None = error
    while found is not None:
        if isinstance(found, ImportError) and (found.path or "").endswith((".so", ".pyd", ".dylib")):
            _, _, inside = str(found.path).rpartition(f"site-packages{os.sep}")
            package = inside.partition(os.sep)[0]
            advice = "give the process more memory (ulimit -v), or install the package again"
            return Diagnostic("F007", f"the package {package} cannot be loaded: {found}", help=advice)
        found = found.__cause__ or found.__context__
    return None


_FAULTS = {
    errno.ENOSPC: ("F003", "no space is left on the disk", "free some space; nothing half-written was left behind"),
    errno.EDQUOT: ("F003", "the disk quota is used up", "free some space; nothing half-written was left behind"),
    errno.EFBIG: ("F003", "the file would be larger than this process may write", "raise the limit (ulimit -f)"),
    errno.EACCES: ("F003", "permission denied", None),
    errno.EROFS: ("F003", "the file system is read-only", None),
    errno.ENOENT: ("F001", "no such file or folder", None),
    errno.EISDIR: ("F002", "this is a folder, not a file", None),
    errno.ENOTDIR: ("F002", "a file stands where a folder is needed", None),
}


def _full_disk() -> str | None:
    """The folder, of the temporary and the working one, whose disk is full; for errors that name no file."""
    folders = [tempfile.gettempdir(), str(Path.cwd())]
    return next((folder for folder in folders if shutil.disk_usage(folder).free < _FULL), None)


_FULL = 1 << 20
"""Bytes left on a disk that counts as full."""


def _machine_fault(error: OSError) -> Diagnostic:
    code, message, advice = _FAULTS.get(error.errno or 0, ("F002", error.strerror or str(error), None))
    filename = error.filename or (_full_disk() if error.errno == errno.ENOSPC else None)
    place = f": {filename}" if filename else ""
    return Diagnostic(code, f"{message}{place}", help=advice)
