import re
import shutil
from pathlib import Path

import pytest

from segc import cli
from segc.data.dataset import list_images
from segc.diagnostics import SegcError
from segc.spec.dataset import Dataset
from segc.spec.hyperparameters import Augment, Hyperparameters
from segc.spec.init import project_name, project_text
from segc.spec.layouts import recorded_names
from segc.spec.load import LoadedProject, check_project, check_text, load_project


def test_a_new_project_file_is_valid_and_says_the_defaults(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["init"]) == 0
    assert "segc validate" in capsys.readouterr().out
    loaded, _ = check_project(Path("project.yaml"))
    assert loaded is not None
    assert loaded.project.hyperparameters == Hyperparameters()
    assert [path.name for path in folder.iterdir() if path.is_file()] == ["project.yaml"]


def test_every_hyperparameter_is_in_a_new_project_file() -> None:
    cli.run(["init"])
    text = Path("project.yaml").read_text(encoding="utf-8")
    for name in (*Hyperparameters.model_fields, *Augment.model_fields):
        assert f" {name}:" in text


def test_what_is_commented_out_is_valid_too() -> None:
    cli.run(["init"])
    path = Path("project.yaml")
    head, tail = path.read_text(encoding="utf-8").split("hyperparameters:\n")
    tail = re.sub(r"^  # ", "  ", tail, flags=re.MULTILINE)
    path.write_text(f"{head}hyperparameters:\n{tail}", encoding="utf-8")
    assert load_project(path).project.hyperparameters == Hyperparameters()


def test_an_existing_file_is_not_replaced_unless_forced(capsys: pytest.CaptureFixture[str]) -> None:
    Path("project.yaml").write_text("mine")
    assert cli.run(["init"]) == 1
    assert "F005" in capsys.readouterr().err
    assert Path("project.yaml").read_text() == "mine"
    assert cli.run(["init", "--force"]) == 0
    assert load_project(Path("project.yaml"))


def test_an_existing_data_file_is_taken_over(folder: Path) -> None:
    (folder / "my data").mkdir()
    (folder / "my data" / "it's.yaml").write_text("train: images/train\nval: images/val\nnames: {0: cat, 1: 'no'}\n")
    assert cli.run(["init", "new place/p.yaml", "--from", "my data/it's.yaml"]) == 0
    loaded = load_project(folder / "new place" / "p.yaml")
    assert loaded.project.dataset.names == ("cat", "no")
    assert loaded.project.name == "new-place"
    assert loaded.dataset_root == folder / "my data"


def test_a_data_file_that_cannot_be_taken_over_is_refused_in_its_own_place(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "data.yaml").write_text("train: a\nval: b\nnames: [x, x]\n")
    assert cli.run(["init", "--from", "data.yaml"]) == 1
    assert "data.yaml:3:12: error[X202]" in capsys.readouterr().err
    assert cli.run(["init", "--from", "none.yaml"]) == 1
    assert not (folder / "project.yaml").exists()


def labelled(folder: Path, images: str, labels: str, rows: str = "1 .1 .1 .5 .1 .5 .5\n") -> None:
    (folder / images).mkdir(parents=True)
    (folder / labels).mkdir(parents=True, exist_ok=True)
    (folder / images / "a.jpg").touch()
    (folder / labels / "a.txt").write_text(rows)


def images_of(loaded: LoadedProject) -> list[list[str]]:
    return [
        [path.relative_to(loaded.root).as_posix() for path in list_images(loaded, split)] for split in ("train", "val")
    ]


def test_a_roboflow_export_becomes_a_valid_project_in_one_command(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for split in ("train", "valid", "test"):
        labelled(folder / "export", f"{split}/images", f"{split}/labels")
    (folder / "export" / "README.roboflow.txt").touch()
    (folder / "export" / "data.yaml").write_text(
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['a', 'b']\n\n"
        "roboflow:\n  workspace: x\n  version: 1\n"
    )
    assert cli.run(["init", "--from", "export"]) == 0
    assert "not used of the data file: roboflow" in capsys.readouterr().out
    assert cli.run(["validate"]) == 0
    loaded = load_project(folder / "project.yaml")
    assert images_of(loaded) == [["export/train/images/a.jpg"], ["export/valid/images/a.jpg"]]


@pytest.mark.parametrize(
    ("layout", "splits"),
    [("images/{}", ("train", "val")), ("{}/images", ("train", "valid")), ("{}", ("train", "val")), ("images", ("",))],
)
@pytest.mark.parametrize("names", [None, "it's a cat\nno\n"])
def test_a_labelled_folder_tree_becomes_a_valid_project_in_one_command(
    folder: Path, layout: str, splits: tuple[str, ...], names: str | None
) -> None:
    for split in splits:
        place = layout.format(split)
        labelled(folder / "data", place, place.replace("images", "labels"))
    if names:
        (folder / "data" / "classes.txt").write_text(names)
    assert cli.run(["init", "--from", "data"]) == 0
    assert cli.run(["validate"]) == 0
    loaded = load_project(folder / "project.yaml")
    assert loaded.project.dataset.names == (("it's a cat", "no") if names else ("class0", "class1"))
    found = images_of(loaded)
    assert [len(one) for one in found] == [1, 1]
    assert (found[0] == found[1]) == (len(splits) == 1)


CATEGORIES = '"categories": [{"id": 7, "name": "dog"}, {"id": 2, "name": "no"}]'


@pytest.mark.parametrize(
    ("train", "val", "images"),
    [
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json", ("train2017", "val2017")),
        ("annotations/train.json", "annotations/val.json", ("images/train", "images/val")),
        ("train/_annotations.coco.json", "valid/_annotations.coco.json", ("train", "valid")),
        ("train.json", "val.json", ("images", "images")),
        ("all.json", None, ("photos", "photos")),
    ],
)
def test_coco_annotations_become_a_valid_project(
    folder: Path, train: str, val: str | None, images: tuple[str, str]
) -> None:
    for file, place in zip((train, val), images, strict=True):
        (folder / "d" / place).mkdir(parents=True, exist_ok=True)
        if file is not None:
            name = file.replace("/", "-")
            (folder / "d" / place / f"{name}.jpg").touch()
            (folder / "d" / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / "d" / file).write_text(
                f'{{"images": [{{"id": 1, "file_name": "{name}.jpg", "width": 9, "height": 9}}], {CATEGORIES}}}'
            )
    assert cli.run(["init", "--from", f"d/{train}"]) == 0
    assert cli.run(["validate"]) == 0
    loaded = load_project(folder / "project.yaml")
    assert loaded.project.dataset.names == ("no", "dog")
    pairs = zip((train, val), images, strict=True)
    expected = [f"d/{place}/{(file or train).replace('/', '-')}.jpg" for file, place in pairs]
    assert images_of(loaded) == [[one] for one in expected]


@pytest.mark.parametrize("splits", [("train", "val"), ("",)])
def test_a_labelme_folder_becomes_a_valid_project(folder: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        (folder / "d" / split).mkdir(parents=True)
        (folder / "d" / split / "a.jpg").touch()
        shapes = '[{"label": "dog", "points": [[1, 1], [5, 1], [5, 5]]}, {"label": "a cat", "points": []}]'
        (folder / "d" / split / "a.json").write_text(f'{{"shapes": {shapes}, "imagePath": "a.jpg"}}')
        (folder / "d" / "Settings.json").write_text('{"theme": "dark"}')  # of another program
    assert cli.run(["init", "--from", "d"]) == 0
    assert cli.run(["validate"]) == 0
    loaded = load_project(folder / "project.yaml")
    assert (loaded.project.dataset.format, loaded.project.dataset.names) == ("labelme", ("a cat", "dog"))
    assert [len(one) for one in images_of(loaded)] == [1, 1]


@pytest.mark.parametrize("source", ["d", "d/annotations.xml"])
def test_a_cvat_export_becomes_a_valid_project(folder: Path, source: str) -> None:
    (folder / "d" / "images").mkdir(parents=True)
    labels = "<label><name>cat &amp; co</name></label><label>\n<name>dog</name></label>"
    (folder / "d" / "annotations.xml").write_text(
        f"<?xml version='1.0'?>\n<annotations>\n<version>1.1</version><meta>{labels}</meta></annotations>"
    )
    assert cli.run(["init", "--from", source]) == 0
    assert cli.run(["validate"]) == 0
    dataset = load_project(folder / "project.yaml").project.dataset
    assert (dataset.format, dataset.names, dataset.train) == ("cvat", ("cat & co", "dog"), "images")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("instances.json", '{"images": [' + '{"id": 1},' * 120_000 + '{"id": 2}], "annotations": []}'),
        ("annotations.xml", "<?xml version='1.0'?>\n<annotations>\n</annotations>\n"),
        ("labelme.json", '{"shapes": [], "imagePath": "a.png"}'),
        ("photos", None),
    ],
)
def test_validate_says_what_makes_a_project_of_annotations(
    folder: Path, name: str, text: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).mkdir() if text is None else (folder / name).write_text(text)
    assert cli.run(["validate", name]) == 1
    assert f"segc init --from {name} makes a project of it" in capsys.readouterr().out


def test_a_cvat_folder_of_two_splits_becomes_a_valid_project(folder: Path) -> None:
    for split in ("train", "val"):
        (folder / "d" / "images" / split).mkdir(parents=True)
        (folder / "d" / "images" / split / f"{split}&.jpg").touch()
        (folder / "d" / "annotations").mkdir(exist_ok=True)
        (folder / "d" / "annotations" / f"{split}.xml").write_text(
            "<?xml version='1.0'?>\n<annotations><meta><label><name>dog</name></label></meta>"
            f"<image id='0' name='{split}&amp;.jpg' width='9' height='9'/></annotations>"
        )
    assert cli.run(["init", "--from", "d"]) == 0
    assert cli.run(["validate"]) == 0
    loaded = load_project(folder / "project.yaml")
    assert loaded.project.dataset.format == "cvat"
    assert images_of(loaded) == [["d/images/train/train&.jpg"], ["d/images/val/val&.jpg"]]


def test_arguments_of_a_run_are_taken_over_and_every_one_is_accounted_for(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labelled(folder, "rf/train/images", "rf/train/labels")
    (folder / "rf/data.yaml").write_text("train: train/images\nval: train/images\nnames: [a]\n")
    (folder / "runs/train").mkdir(parents=True)
    arguments = {
        "task": "segment", "mode": "train", "model": "yolov8m-seg.pt", "data": "rf/data.yaml", "epochs": 7, "batch": -1,
        "imgsz": 320, "device": "null", "amp": "false", "nbs": 32, "cache": "ram", "lr0": 0.5, "degrees": 5,
        "dropout": 0.0, "workers": 100000, "int8": "false", "quux": 1, "freeze": 3,
    }  # fmt: skip
    file = folder / "runs/train/args.yaml"
    file.write_text("".join(f"{key}: {value}\n" for key, value in arguments.items()))
    assert cli.run(["init", "--from", "runs/train/args.yaml"]) == 0
    notes = dict(line.strip().split(": ", 1) for line in capsys.readouterr().out.splitlines()[:-1])
    assert set(notes) == set(arguments)
    assert "no such setting" in notes["quux"]
    assert notes["workers"].startswith("left out")
    project = load_project(folder / "project.yaml").project
    hyper = project.hyperparameters
    assert project.architecture.scale == "m"
    assert (hyper.epochs, hyper.batch, hyper.precision, hyper.nominal_batch, hyper.cache) == (
        7,
        "auto",
        "fp32",
        32,
        "ram",
    )
    assert (hyper.lr0, hyper.augment.degrees, hyper.augment.mosaic, hyper.freeze) == (0.5, 5.0, 1.0, 3)


def test_a_model_file_gives_scale_and_number_of_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    body = "backbone:\n  - [-1, 1, Conv, [64, 3, 2]]\n  - [-1, 3, C2f, [128, true]]\nhead:\n  - [[1], 1, {}, [nc]]\n"
    (folder / "yolov8l-seg.yaml").write_text("nc: 3\n" + body.format("Segment"))
    (folder / "yolov8l.yaml").write_text("nc: 3\n" + body.format("Detect"))
    assert cli.run(["init", "--from", "yolov8l-seg.yaml"]) == 0
    project = load_project(folder / "project.yaml").project
    assert (project.architecture.scale, project.dataset.nc) == ("l", 3)
    assert cli.run(["init", "--force", "--from", "yolov8l.yaml"]) == 1
    assert "its head is Detect" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("data.yaml", "train: a\nval: b\nnc: 1\nnames: [a]\n", "a YOLO data file"),
        ("args.yaml", "task: segment\nmode: train\nmodel: x.pt\nepochs: 3\n", "the args.yaml of a finished run"),
        ("m.yaml", "nc: 1\nbackbone: []\nhead: []\n", "a model file"),
        ("c.json", '{"images": [], "annotations": [], "categories": []}', "a COCO annotation file"),
    ],
)
def test_validate_says_which_command_wants_a_file_of_another_kind(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, text: str, words: str
) -> None:
    (folder / name).write_text(text)
    assert cli.run(["validate", name]) == 1
    out = capsys.readouterr().out
    assert f"error[X223]: this is {words}" in out
    assert f"segc init --from {name}" in out
    assert out.count("error[") == 1


def test_what_no_project_can_be_made_of_is_refused(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()
    for name, text in {
        "a.yaml": "x: 1\n",
        "b.json": "{}",
        "c.json": '{"shapes": []}',
        "project2.yaml": "version: 1\ntargets: []\n",
    }.items():
        (folder / name).write_text(text)
        assert cli.run(["init", "--from", name]) == 1, name
        assert "X223" in capsys.readouterr().err
    assert cli.run(["init", "--from", "empty"]) == 1
    assert not (folder / "project.yaml").exists()


@pytest.mark.parametrize(
    ("folder_name", "name"), [("my shapes!", "my-shapes"), ("..", "project"), ("\u00fc", "project"), ("2026", "2026")]
)
def test_any_folder_gives_a_project_name(folder_name: str, name: str) -> None:
    assert project_name(Path(folder_name)) == name


def test_a_folder_with_a_number_for_a_name_gives_a_valid_file(folder: Path) -> None:
    (folder / "2026").mkdir()
    assert cli.run(["init", "2026"]) == 0
    assert load_project(folder / "2026" / "project.yaml").project.name == "2026"


@pytest.fixture(autouse=True)
def _in_folder(folder: Path) -> None:
    """Every test here works in a folder of its own."""


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    (tmp_path / "elsewhere").mkdir()
    return tmp_path / "elsewhere"


def test_a_voc_folder_becomes_a_valid_project(elsewhere: Path) -> None:
    for name in ("JPEGImages", "SegmentationObject", "ImageSets/Segmentation", "Annotations"):
        (elsewhere / name).mkdir(parents=True)
    (elsewhere / "Annotations" / "a.xml").write_text(
        "<annotation><object><name>dog</name></object><object><name>cat &amp; co</name></object></annotation>"
    )
    loaded = project_from(elsewhere)
    assert (loaded.format, loaded.names, loaded.train) == ("voc", ("cat & co", "dog"), "JPEGImages")
    (elsewhere / "labelmap.txt").write_text("# label:color\nbackground:0,0,0::\nzebra:128,0,0::\nant:0,128,0::\n")
    for split in ("train", "val"):
        (elsewhere / "ImageSets" / "Segmentation" / f"{split}.txt").write_text("a\n")
    loaded = project_from(elsewhere)
    assert (loaded.names, loaded.train, loaded.val) == (
        ("zebra", "ant"),
        "ImageSets/Segmentation/train.txt",
        "ImageSets/Segmentation/val.txt",
    )


def test_a_voc_folder_without_names_says_what_gives_them(elsewhere: Path) -> None:
    (elsewhere / "JPEGImages").mkdir()
    with pytest.raises(SegcError) as error:
        project_from(elsewhere)
    (fault,) = error.value.diagnostics
    assert fault.code == "X223"
    assert "labelmap.txt" in str(fault.help)


def test_a_folder_of_masks_becomes_a_valid_project(elsewhere: Path) -> None:
    (elsewhere / "images").mkdir()
    (elsewhere / "images" / "a.jpg").touch()
    (elsewhere / "masks").mkdir()
    (elsewhere / "masks" / "a.png").touch()
    loaded = project_from(elsewhere)
    assert (loaded.format, loaded.names, loaded.train) == ("masks", ("object",), "images")
    (elsewhere / "masks" / "a").mkdir()
    for name in ("person_1.png", "2-dog.png"):
        (elsewhere / "masks" / "a" / name).touch()
    assert project_from(elsewhere).names == ("dog", "person")


@pytest.mark.parametrize("packed", ["a.zip", "a.tar.gz"])
def test_an_archive_is_to_be_unpacked(elsewhere: Path, packed: str) -> None:
    (elsewhere / "in").mkdir()
    (elsewhere / "in" / "data.yaml").write_text("train: a\n")
    shutil.make_archive(str(elsewhere / "a"), "zip" if packed == "a.zip" else "gztar", elsewhere / "in")
    with pytest.raises(SegcError) as error:
        project_from(elsewhere / packed)
    (fault,) = error.value.diagnostics
    assert (fault.code, "unpack it" in str(fault.help)) == ("X223", True)


def test_a_large_coco_file_is_not_taken_for_a_labelme_file(elsewhere: Path) -> None:
    file = elsewhere / "a.json"
    file.write_text('{"imagePath": "x", "images": [], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}')
    assert project_from(file).format == "coco"


def project_from(source: Path) -> Dataset:
    text, _ = project_text(source.parent / "project.yaml", source)
    loaded, diagnostics = check_text(text, source.parent / "project.yaml")
    assert loaded is not None, diagnostics
    return loaded.project.dataset


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ('{"dataset": {"format": "masks", "names": ["a", "b"]}}', ("a", "b")),
        ('{"dataset": {"format": "yolo", "names": ["a"]}}', ()),
        ('{"dataset": {"format": "masks", "names": ["a", 1]}}', ()),
        ('{"dataset": ["masks"]}', ()),
        ("[" * 200_000, ()),
        ("\xff", ()),
        (None, ()),
    ],
)
def test_the_account_of_a_conversion_tells_classes_or_nothing(
    content: str | None, names: tuple[str, ...], tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / "conversion.json").write_bytes(content.encode("latin-1"))
    assert recorded_names(tmp_path, "masks") == names
