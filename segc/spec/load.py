"""From a ``project.yaml`` to a `Project`, or to everything that is wrong with it."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath
from typing import Any, Literal

from pydantic import ValidationError

from segc.diagnostics import Diagnostic, SegcError, sort_diagnostics
from segc.files import is_file, is_folder
from segc.schema import Problem, SpecModel
from segc.spec.dataset import DataFile, repeated_splits
from segc.spec.hyperparameters import idle_keys
from segc.spec.paths import expand, missing_path_help, read_path, unset_variables
from segc.spec.project import Project
from segc.spec.recognise import NAMED, kind_of
from segc.spec.source import DEEPEST, Node, Place, SpecText, collection, compose, read_source

PATH_CODES = ("X212", "X221")
"""What is said about paths that lead nowhere on this machine: a spec may be sound all the same."""


@dataclass(frozen=True)
class LoadedProject:
    """A valid project and where it was read.

    Attributes:
        project: The project, with overrides applied and what a data file says filled in.
        path: The ``project.yaml``, absolute.
        warnings: What was found that does not stop segc.
        overrides: The ``key.key=VALUE`` texts that were applied.
    """

    project: Project
    path: Path
    warnings: tuple[Diagnostic, ...] = ()
    overrides: tuple[str, ...] = ()

    @property
    def root(self) -> Path:
        """The folder of the ``project.yaml``, which its relative paths start from."""
        return self.path.parent

    @property
    def dataset_root(self) -> Path:
        """The folder of the dataset, absolute."""
        return _absolute(read_path(self.root, self.project.dataset.path).path)

    def split_paths(self, split: Literal["train", "val", "test"]) -> tuple[Path, ...]:
        """Folders, lists and images of a split, absolute; ``~``, variables and the like are resolved."""
        entries = getattr(self.project.dataset, split)
        return () if entries is None else tuple(self._in_dataset(entry) for _, entry in _entries(entries))

    def annotations_path(self, split: Literal["train", "val", "test"]) -> Path:
        """The annotation file of a split, absolute; only where the format has such files."""
        return self._in_dataset(getattr(self.project.dataset.annotations, split))

    def _in_dataset(self, text: str) -> Path:
        return _absolute(read_path(self.dataset_root, text).path)

    @property
    def weights_path(self) -> Path | None:
        """The file of weights to start from, absolute; None where none are asked for, or they are to be fetched."""
        start = self.project.architecture.start
        if start is None or start.path is None:
            return None
        path = _absolute(read_path(self.root, start.path).path)
        return path if start.address is None or is_file(path) else None

    @property
    def build_dir(self) -> Path:
        """Where a build goes unless another folder is given."""
        return self.root / "build"


MOST_FAULTS = 100
"""Faults of a spec that are shown one by one; of the others the number."""


def load_project(path: Path, overrides: Sequence[str] = ()) -> LoadedProject:
    """Read, override and validate a spec.

    Args:
        path: A ``project.yaml``.
        overrides: ``key.key=VALUE`` texts, VALUE in YAML; an index into a list is a key too.

    Raises:
        SegcError: with a diagnostic for everything that is wrong.
    """
    loaded, diagnostics = check_project(path, overrides)
    if loaded is None:
        raise SegcError(diagnostics)
    return loaded


def check_project(path: Path, overrides: Sequence[str] = ()) -> tuple[LoadedProject | None, tuple[Diagnostic, ...]]:
    """As `load_project`, without raising: the project where there are no errors, and all errors and warnings."""
    source = read_source(path)
    if isinstance(source, Diagnostic):
        return None, (_recognised(source, path),)
    return check_source(source, path, overrides)


def _recognised(found: Diagnostic, path: Path) -> Diagnostic:
    """Why a file is not read, with the command that wants it where it looks like annotations, or like a dataset."""
    if found.code == "Y005" and path.suffix.lower() == ".json":
        return Diagnostic(
            "X223", _NOT_A_PROJECT.format("a large JSON file, as of annotations"), file=path, help=_taker(path)
        )
    if os.path.isdir(path):  # noqa: PTH112 - also for impossible names
        return replace(found, help=f"{found.help}; if it is a dataset, {_taker(path)}")
    return found


_NOT_A_PROJECT = "this is {}, not a project"


def _taker(path: Path) -> str:
    """The command that wants what is no project."""
    import shlex

    return f"segc init --from {shlex.quote(str(path))} makes a project of it"


def check_text(
    text: str, path: Path, overrides: Sequence[str] = ()
) -> tuple[LoadedProject | None, tuple[Diagnostic, ...]]:
    """As `check_project`, for a text that stands, or is going to stand, in the file ``path``."""
    return check_source(SpecText(text, path), path, overrides)


def check_source(
    source: SpecText, path: Path, overrides: Sequence[str] = ()
) -> tuple[LoadedProject | None, tuple[Diagnostic, ...]]:
    """As `check_project`, for a text already read."""
    loader = _Loader(_absolute(path))
    project, root = loader.load(source, overrides)
    diagnostics = sort_diagnostics(loader.diagnostics)
    if project is None or root is None or any(d.severity == "error" for d in diagnostics):
        return None, _first_ones(diagnostics, path)
    loaded = LoadedProject(project, loader.path, overrides=tuple(overrides))
    warnings = sort_diagnostics((*diagnostics, *_warnings(loaded, root)))
    return replace(loaded, warnings=warnings), warnings


def _first_ones(diagnostics: tuple[Diagnostic, ...], path: Path) -> tuple[Diagnostic, ...]:
    """The first faults of a spec, and how many more there are: thousands are what a file of another kind has."""
    shown, rest = diagnostics[:MOST_FAULTS], diagnostics[MOST_FAULTS:]
    if not rest:
        return shown
    text = f"{len(rest)} more faults like these"
    return *shown, Diagnostic(rest[0].code, text, file=path, help="is this a project file?")


def _absolute(path: Path) -> Path:
    """Absolute, without ``..``; links are left as they are, and nothing is looked up."""
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve follows links


class _Loader:
    """One spec on its way; collects diagnostics."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.diagnostics: list[Diagnostic] = []

    def load(self, source: SpecText, overrides: Sequence[str]) -> tuple[Project | None, Node | None]:
        if source.text.lstrip().startswith("<"):
            text = _NOT_A_PROJECT.format("XML, as CVAT's annotations are")
            self.diagnostics.append(source.place(0, 0).diagnostic("X223", text, _taker(source.file or self.path)))
            return None, None
        root = self._tree(source, "a spec", "version: 1", "`segc init` writes one")
        if root is None:
            return None, None
        kind = kind_of(root.value)
        if kind not in {None, "project"}:
            first = next(iter(root.value.values()))
            text = _NOT_A_PROJECT.format(NAMED[kind]) if kind else ""
            way_out = _taker(source.file or self.path)
            self.diagnostics.append((first.key or first.place).diagnostic("X223", text, way_out))
            return None, None
        for override in overrides:
            root = self._override(root, override)
        dataset = root.child("dataset")
        if dataset is not None and isinstance(dataset.value, dict):
            root = _with(root, "dataset", self._with_names(self._take_over(dataset)))
        return self._validate(root), root

    def _tree(self, source: SpecText, what: str, example: str, way_out: str) -> Node | None:
        """The root of a text, which is a mapping.

        Args:
            source: the text.
            what: what it is to be.
            example: a line of such a text.
            way_out: what to do where it is empty.
        """
        root, diagnostics = compose(source)
        if root is None:
            from segc.spec.recovery import syntax_faults

            self.diagnostics += syntax_faults(source, diagnostics)
            return None
        self.diagnostics += diagnostics
        if root.value is None and not root.quoted:
            text = "the file is empty" if not diagnostics else "nothing is left of the file"
            self.diagnostics.append(root.place._replace(length=1).diagnostic("Y006", text, way_out))
        elif not isinstance(root.value, dict):
            text = f"{what} is a mapping of keys to values"
            self.diagnostics.append(root.place.diagnostic("S103", text, f"for example `{example}`"))
        else:
            return root
        return None

    def _validate(self, root: Node) -> Project | None:
        plain = root.plain()
        try:
            return Project.model_validate(plain)
        except ValidationError as error:
            from segc.spec.explain import diagnose  # a valid spec needs no explanations

            errors = error.errors(include_url=False)
            found = diagnose(error, root, Project)
            sound = _without_broken_sections(plain, {item["loc"][0] for item in errors if item["loc"]})
            if sound is not None:
                try:
                    Project.model_validate(sound)
                except ValidationError as remaining:
                    found += diagnose(remaining, root, Project)
        unknown = [d for d in found if d.code == "S110"]
        self._add(unknown or found)
        return None

    def _add(self, found: Sequence[Diagnostic]) -> None:
        """Add diagnostics, except what only follows from a fault that is reported at the same place already."""
        taken = {_where(d) for d in self.diagnostics}
        self.diagnostics += [d for d in found if _where(d) not in taken]

    # -- overrides

    def _override(self, root: Node, override: str) -> Node:
        argument = f"--set {override}"
        path, equals, text = override.partition("=")
        whole = SpecText(override, argument=argument, offset=len("--set "))
        keys = path.split(".")
        if not equals or not all(keys):
            place = Place(whole, 0, 0, len(path))
            help_ = "for example --set hyperparameters.epochs=3"
            self.diagnostics.append(place.diagnostic("S109", "an override is written key.key=VALUE", help_))
            return root
        if len(keys) > DEEPEST:
            text = f"{len(keys)} keys, one inside another: a spec has no more than {DEEPEST} levels"
            self.diagnostics.append(Place(whole, 0, 0, len(path)).diagnostic("S109", text))
            return root
        value, diagnostics = compose(SpecText(text, argument=argument, offset=len("--set ") + len(path) + 1))
        self.diagnostics += diagnostics
        if value is None:
            return root
        starts = [sum(len(key) + 1 for key in keys[:index]) for index in range(len(keys))]
        places = [Place(whole, 0, start, len(key)) for start, key in zip(starts, keys, strict=True)]
        return self._set(root, list(zip(keys, places, strict=True)), value)

    def _set(self, node: Node, path: list[tuple[str, Place]], value: Node) -> Node:
        """``node`` with the value at ``path``; nodes on the way are copied, for aliases share them."""
        if not path:
            return replace(value, key=node.key)
        (key, place), rest = path[0], path[1:]
        if isinstance(node.value, list):
            return self._set_item(node, key, place, rest, value)
        if not isinstance(node.value, dict):
            if node.value is not None or node.quoted:
                text = f"there is no key `{key}` to set: a single value stands here"
                self.diagnostics.append(place.diagnostic("S109", text))
                return node
            node = collection([], place, node.key) if key.isdecimal() else collection({}, place, node.key)
            return self._set(node, path, value)
        numbered = key.isdecimal() and key not in node.value and len(key) < 10 and int(key) in node.value
        name = int(key) if numbered else key
        inner = node.value.get(name, Node(None, place))
        return _with(node, name, self._set(replace(inner, key=place), rest, value))

    def _set_item(self, node: Node, key: str, place: Place, rest: list[tuple[str, Place]], value: Node) -> Node:
        items: list[Node] = list(node.value)
        if not key.isdecimal() or len(key) > 9 or int(key) > len(items):
            text = f"`{key}` is no index into a list of {len(items)}"
            help_ = f"indices run from 0; {len(items)} adds an item"
            self.diagnostics.append(place.diagnostic("S109", text, help_))
            return node
        items[int(key) :] = [
            self._set(items[int(key)] if int(key) < len(items) else Node(None, place), rest, value),
            *items[int(key) + 1 :],
        ]
        return collection(items, node.place, node.key)

    # -- the class names of an annotation file

    def _with_names(self, dataset: Node) -> Node:
        """The dataset with the names of COCO's categories, where it has none of its own."""
        form, annotations = dataset.child("format"), dataset.child("annotations")
        train = annotations.child("train") if annotations is not None else None
        if dataset.child("names") is not None or form is None or form.value != "coco" or train is None:
            return dataset
        from segc.spec.categories import read_categories

        folder = dataset.child("path")
        root = folder.value if folder is not None else "."
        if not isinstance(train.value, str) or not isinstance(root, str):
            return dataset
        file = _absolute(read_path(read_path(self.path.parent, root).path, train.value).path)
        try:
            names = list(read_categories(file).values())
        except (OSError, ValueError) as error:
            reason = missing_path_help(file) if isinstance(error, FileNotFoundError) else None
            text = f"the class names cannot be taken from {file}: {getattr(error, 'strerror', None) or error}"
            self.diagnostics.append(train.place.diagnostic("X205", text, reason or "give `names`"))
            names = ["any"]
        nodes = [Node(name, train.place, text=name) for name in names]
        return _with(dataset, "names", collection(nodes, train.place, train.key))

    # -- the data file of the dataset

    def _take_over(self, dataset: Node) -> Node:
        """The dataset with what its ``data`` file says filled in, where it does not say so itself."""
        data = dataset.child("data")
        if data is None or not isinstance(data.value, str) or not data.value:
            return dataset
        names = dataset.child("names")
        if names is not None:
            text = "class names are given here and by `data`"
            self.diagnostics.append((names.key or names.place).diagnostic("X204", text, "leave one of them out"))
        count = len(self.diagnostics)
        file = _absolute(read_path(self.path.parent, data.value).path)
        taken = self._data_file(data, file, dataset)
        if taken is None or any(one.severity == "error" for one in self.diagnostics[count:]):
            taken = _placeholders(data)
        return collection({**taken, **dataset.value}, dataset.place, dataset.key)

    def _data_file(self, data: Node, file: Path, dataset: Node) -> dict[Any, Node] | None:
        source = read_source(file)
        if isinstance(source, Diagnostic):
            if source.code == "F001":
                text = f"there is no file {file}"
                source = data.place.diagnostic("F001", text, missing_path_help(file))
            self.diagnostics.append(source)
            return None
        root = self._tree(source, "a data file", "train: images/train", "it has to name train, val and names")
        if root is None:
            return None
        try:
            described = DataFile.model_validate(_known(root, DataFile))
        except ValidationError as error:
            from segc.spec.explain import diagnose

            self._add(diagnose(error, root, DataFile))
            return None
        self._report_missing_splits(root, dataset)
        taken = {
            key: node
            for key in ("train", "val", "test", "names")
            if (node := root.child(key)) is not None and node.value
        }
        folder = root.child("path")
        place = folder.place if folder is not None else data.place
        path = self._folder(file.parent, described, place)
        if "test" in taken and dataset.child("test") is None and not self._is_there(path, described):
            note = "these test images are not there: the project has none"
            self.diagnostics.append(taken.pop("test").place.diagnostic("X222", note, severity="warning"))
        return {**taken, "path": Node(path, place, data.key)}

    def _is_there(self, folder: str, described: DataFile) -> bool:
        """Whether the test images of a data file are there, which many exports name, and do not hold.

        Where the dataset itself is not there, that is told instead.
        """
        root = _absolute(read_path(self.path.parent, folder).path)
        if not os.path.isdir(root):  # noqa: PTH112 - also for impossible names
            return True
        entries = [entry for _, entry in _entries(described.test or ())]
        return all(os.path.exists(read_path(root, entry).path) for entry in entries)  # noqa: PTH110

    def _report_missing_splits(self, data: Node, dataset: Node) -> None:
        for key in ("train", "val"):
            if not any(node is not None and node.value is not None for node in (data.child(key), dataset.child(key))):
                from segc.spec.remedies import near

                close = next((other for other in data.value if isinstance(other, str) and near(other, [key])), None)
                place = (data.value[close].key if close else None) or data.place._replace(length=1)
                way_out = f"`{close}` looks like it" if close else f"for example `{key}: images/{key}`"
                text = f"key `{key}` is missing in the data file"
                self.diagnostics.append(place.diagnostic("S101", text, way_out))

    def _folder(self, above: Path, described: DataFile, place: Place) -> str:
        """The dataset's folder as the spec would name it: relative to itself, unless the data file has it absolute."""
        text = described.path
        if text is not None and PurePath(expand(text)).is_absolute():
            return text
        folder = _absolute(read_path(above, text or ".").path)
        guess = text is not None and not unset_variables(text) and not is_folder(folder)
        if text is not None and guess and (meant := self._meant_folder(above, text, described)):
            note = f"there is no folder {folder}: read as {meant}"
            self.diagnostics.append(place.diagnostic("X222", note, severity="warning"))
            folder = meant
        try:
            return Path(os.path.relpath(folder, self.path.parent)).as_posix()
        except ValueError:  # another drive
            return folder.as_posix()

    def _meant_folder(self, above: Path, text: str, described: DataFile) -> Path | None:
        """Where programs that start relative paths elsewhere would look, if the training images are there."""
        first = described.train if isinstance(described.train, str) else (described.train or ("",))[0]
        for folder in (self.path.parent / text, Path.cwd() / text, above):
            if is_folder(folder) and os.path.exists(read_path(folder, first).path):  # noqa: PTH110 - as `is_file`
                return _absolute(folder)
        return None


def _where(diagnostic: Diagnostic) -> tuple[Any, ...]:
    return (diagnostic.file, diagnostic.line, diagnostic.column, diagnostic.argument)


def _with(node: Node, key: Any, value: Node) -> Node:
    return collection({**node.value, key: value}, node.place, node.key)


def _known(root: Node, model: type[SpecModel]) -> dict[str, Any]:
    """The values of the keys that a model has; null is the same as nothing there."""
    return {
        key: node.plain()
        for key in model.model_fields
        if (node := root.child(key)) is not None and node.value is not None
    }


def _placeholders(data: Node) -> dict[Any, Node]:
    """Values that pass, in place of those of a data file whose faults are reported already."""
    fixed = {"path": ".", "train": "train", "val": "val", "names": [Node("any", data.place, text="any")]}
    return {key: Node(value, data.place, data.key) for key, value in fixed.items()}


_SOUND: Mapping[str, Any] = {
    "version": 1,
    "name": "any",
    "architecture": {"family": "yolov8-seg", "scale": "n"},
    "dataset": {"train": "train", "val": "val", "names": ("any",)},
    "targets": (),
}


def _without_broken_sections(plain: Mapping[Any, Any], broken: set[str | int]) -> dict[str, Any] | None:
    """The spec with its broken sections made good, to find what is wrong between the others; None if in vain."""
    if "hyperparameters" in broken or not broken:
        return None
    return {
        key: _SOUND[key] if key in broken or key not in plain else plain[key]
        for key in (*_SOUND, *(("hyperparameters",) if "hyperparameters" in plain else ()))
    }


def _warnings(loaded: LoadedProject, root: Node) -> list[Diagnostic]:
    """What is odd about a valid spec, here and now."""
    dataset = loaded.project.dataset
    found = [
        Problem(
            "X208",
            ("dataset", *(("annotations",) if dataset.annotations else ()), "val"),
            f"`{path}` is trained on as well",
            "metrics on it say little",
        )
        for path in repeated_splits(dataset)
    ]
    one_class = dataset.nc == 1 or len(dataset.chosen_classes) == 1
    found += idle_keys(loaded.project.hyperparameters, one_class=one_class)
    found += _path_problems(loaded)
    if not found:
        return []
    from segc.spec.explain import locate

    return [replace(locate(root, Project, problem), severity="warning") for problem in found]


def _path_problems(loaded: LoadedProject) -> Iterator[Problem]:
    """What is not there, and what was read otherwise than it is written."""
    project = loaded.project
    dataset, root = project.dataset, loaded.dataset_root
    yield from _path_problem(loaded.root, ("dataset", "path"), dataset.path, "no folder")
    # os.path answers for impossible names too, where pathlib raises.
    if os.path.isdir(root):  # noqa: PTH112
        for split in ("train", "val", *(("test",) if dataset.test is not None else ())):
            for at, entry in _entries(getattr(dataset, split)):
                yield from _path_problem(root, ("dataset", split, *at), entry, "no")
            if dataset.annotations is not None:
                file = getattr(dataset.annotations, split)
                yield from _path_problem(root, ("dataset", "annotations", split), file, "no annotation file")
    start = project.architecture.start
    if start is not None and start.path is not None and start.address is None:
        yield from _path_problem(loaded.root, ("architecture", "weights"), start.path, "no weights file")


def _path_problem(folder: Path, at: tuple[str | int, ...], text: str, kind: str) -> Iterator[Problem]:
    path, note = read_path(folder, text)
    path = _absolute(path)
    if note:
        yield Problem("X222", at, note)
    elif unset := unset_variables(text):
        yield Problem("X221", at, f"the environment has no variable {', '.join(unset)}", "set it, or write the path")
    elif not os.path.exists(path) or (kind == "no folder" and not os.path.isdir(path)):  # noqa: PTH110, PTH112
        yield Problem("X212", at, f"there is {kind} {path}", missing_path_help(path))


def _entries(split: str | tuple[str, ...]) -> list[tuple[tuple[int, ...], str]]:
    return [((), split)] if isinstance(split, str) else [((index,), entry) for index, entry in enumerate(split)]
