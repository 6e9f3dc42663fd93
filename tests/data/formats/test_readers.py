"""LabelMe, CVAT, Pascal VOC and masks: what labels mean, and what is said about those that mean nothing."""

import base64
import json
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from segc.data.contours import fill
from segc.data.dataset import list_images, read_split
from segc.data.formats import cvat, labelme, masks, voc
from segc.data.formats.png import indexed_png, read_png
from segc.data.formats.xml import elements
from segc.data.opening import open_dataset
from segc.diagnostics import Findings, SegcError
from segc.spec.load import check_text

HEIGHT, WIDTH = 20, 30
NAMES = ("cat", "dog")


def picture(path: Path, height: int = HEIGHT, width: int = WIDTH) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.zeros((height, width, 3), np.uint8))
    return path


def mask(instance):
    return fill([polygon * np.array([WIDTH, HEIGHT]) for polygon in instance.polygons], HEIGHT, WIDTH)


def png(pixels) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def project(folder: Path, **dataset):
    spec = {
        "version": 1,
        "name": "t",
        "architecture": {"family": "yolov8-seg", "scale": "n"},
        "dataset": {"names": list(NAMES), **dataset},
    }
    loaded, diagnostics = check_text(json.dumps(spec), folder / "project.yaml")
    assert loaded is not None, diagnostics
    return loaded


# -- LabelMe


def shape(**changes):
    return {"label": "cat", "points": [[1, 1], [9, 1], [9, 8]], "shape_type": "polygon", "group_id": None, **changes}


def read_labelme(folder: Path, *shapes, **changes):
    image = picture(folder / "a.png")
    content = {"shapes": list(shapes), "imageHeight": HEIGHT, "imageWidth": WIDTH, **changes}
    (folder / "a.json").write_text(json.dumps(content))
    return labelme.read(image, NAMES)


def test_labelme_shapes_become_objects(tmp_path):
    small = np.array([[0, 255, 255], [255, 0, 255], [255, 255, 255]], np.uint8)
    code = base64.b64encode(png(small)).decode()
    found = read_labelme(
        tmp_path,
        shape(),
        shape(shape_type="rectangle", points=[[9, 8], [2, 3]], label="dog"),
        shape(shape_type="circle", points=[[10, 10], [14, 10]], label=" Dog "),
        shape(shape_type="mask", points=[[4, 5], [6, 7]], mask=code, flags={"crowd": True}),
        shape(group_id=4),
        shape(group_id=4, points=[[20, 10], [29, 10], [29, 19]]),
    )
    assert found.faults == []
    assert found.size == (HEIGHT, WIDTH)
    polygon, box, circle, drawn, grouped = found.instances
    assert [one.class_id for one in found.instances] == [0, 1, 1, 0, 0]
    assert [one.is_box for one in found.instances] == [False, True, False, False, False]
    assert [one.is_crowd for one in found.instances] == [False, False, False, True, False]
    assert (polygon.polygons[0] * (WIDTH, HEIGHT)).tolist() == pytest.approx(np.array([[1, 1], [9, 1], [9, 8]]))
    assert mask(box).sum() == 7 * 5
    assert mask(circle).sum() == pytest.approx(np.pi * 16, rel=0.1)
    assert (mask(drawn)[5:8, 4:7] == (small > 0)).all()
    assert mask(drawn).sum() == 7
    assert len(grouped.polygons) == 2
    assert [one.origin for one in found.instances] == [f"/shapes/{place}" for place in range(5)]


@pytest.mark.parametrize(
    ("entry", "code", "text"),
    [
        (5, "D003", "/shapes/0: 5 is no object"),
        (shape(label=None), "D003", "/shapes/0/label: null is no name"),
        (shape(label="bird"), "D021", '/shapes/0: objects that are called "bird" are left out'),
        (shape(shape_type="star"), "D003", '/shapes/0/shape_type: "star" is no kind'),
        (shape(shape_type=["a"]), "D003", "/shapes/0/shape_type"),
        (shape(points=None), "D003", "/shapes/0/points: null is no list"),
        (shape(points=[[1, 1], [2, "a"], [3, 3]]), "D003", "/shapes/0/points/1"),
        (shape(points=[[1, 1], [2, float("nan")], [3, 3]]), "D003", "/shapes/0/points/1"),
        (shape(points=[[1, 1], [2, 10**400], [3, 3]]), "D003", "/shapes/0/points/1"),
        (shape(points=[[1, 1], [2, 2]]), "D003", "2 points are no polygon"),
        (shape(points=[[1, 1], [99, 2], [3, 3]]), "D004", "leave the image of 30 x 20"),
        (shape(shape_type="rectangle", points=[[1, 1]]), "D003", "a rectangle has 2 points, not 1"),
        (shape(shape_type="mask", points=[[1, 1], [2, 2]]), "D003", "/shapes/0/mask: null"),
        (shape(shape_type="mask", points=[[1, 1], [2, 2]], mask="a!"), "D003", "/shapes/0/mask"),
        (shape(shape_type="mask", points=[[1, 1], [2, 2]], mask="AAAA"), "D003", "the mask is no PNG"),
    ],
)
def test_what_is_wrong_with_a_labelme_shape_is_located(tmp_path, entry, code, text):
    found = read_labelme(tmp_path, entry, shape())
    assert [one.code for one in found.faults] == [code]
    assert text in found.faults[0].message
    assert found.faults[0].file == tmp_path / "a.json"
    assert len(found.instances) == 1


def test_points_and_lines_are_left_out_with_a_warning(tmp_path):
    found = read_labelme(tmp_path, shape(shape_type="point", points=[[1, 1]]), shape(shape_type="linestrip"))
    assert [(one.code, one.severity) for one in found.faults] == [("D030", "warning")] * 2
    assert found.instances == []


@pytest.mark.parametrize("text", ["", "[", "[]", "3", "{}", '{"imageHeight": 1e400}', "[" * 100_000, "\xff"])
def test_a_labelme_file_that_is_none_is_told(tmp_path, text):
    image = picture(tmp_path / "a.png")
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    found = labelme.read(image, NAMES)
    assert [one.code for one in found.faults] == ["D003"]


def test_a_project_reads_labelme_folders(tmp_path):
    read_labelme(tmp_path / "train", shape())
    picture(tmp_path / "train" / "background.png")
    loaded = project(tmp_path, format="labelme", train="train", val="train")
    first, second = read_split(loaded, "train")
    assert (len(first.instances), first.size) == (1, (HEIGHT, WIDTH))
    assert (second.label, second.instances) == (None, ())
    read_labelme(tmp_path / "train", shape(points=[]), shape(), shape(), shape(points=[[1, 1], [2, 2], [3, 3]]))
    (tmp_path / "train" / "lost.json").write_text("{}")
    with pytest.raises(SegcError) as error:
        read_split(loaded, "train")
    assert [one.code for one in error.value.diagnostics] == ["D003"]
    found = Findings()
    first, _ = read_split(
        project(tmp_path, format="labelme", train="train", val="train", corrupt="skip"), "train", found
    )
    assert len(first.instances) == 1
    assert found.counts == {"D003": 1, "D009": 1, "D014": 1, "D015": 1}


# -- CVAT

HEAD = (
    "<annotations><version>1.1</version><meta><task><labels><label><name>dog</name></label>"
    "<label><name>cat</name></label></labels></task></meta>"
)


def cvat_file(folder: Path, *shapes: str, image: str = f'name="a.png" width="{WIDTH}" height="{HEIGHT}"') -> Path:
    picture(folder / "images" / "a.png")
    path = folder / "cvat.xml"
    path.write_text(f'<?xml version="1.0"?>\n{HEAD}\n<image id="0" {image}>\n{"".join(shapes)}</image>\n</annotations>')
    return path


def read_cvat(folder: Path, *shapes: str):
    file = cvat_file(folder, *shapes)
    (element,) = cvat.images_in(file)
    return cvat.read(element, file, NAMES)


def test_cvat_shapes_become_objects(tmp_path):
    found = read_cvat(
        tmp_path,
        '<polygon label="cat" points="1,1;9,1;9,8"/>\n',
        '<box label="dog" xtl="2" ytl="3" xbr="9" ybr="8"/>\n',
        '<box label="dog" xtl="2" ytl="3" xbr="9" ybr="8" rotation="90"/>\n',
        '<ellipse label="dog" cx="10" cy="10" rx="4" ry="2"/>\n',
        '<mask label="cat" rle="1, 2, 1, 5" left="4" top="5" width="3" height="3">'
        '<attribute name="is_crowd">true</attribute></mask>\n',
        '<polygon label="cat" points="1,1;9,1;9,8" group_id="4"/>\n',
        '<polygon label="cat" points="20,10;29,10;29,19" group_id="4"/>\n',
        '<polygon label="dog" points="20,10;29,10;29,19" group_id="4"/>\n',
    )
    assert found.faults == []
    polygon, box, turned, ellipse, drawn, grouped, other = found.instances
    assert [one.class_id for one in found.instances] == [0, 1, 1, 1, 0, 0, 1]
    assert [one.is_box for one in found.instances] == [False, True, False, False, False, False, False]
    assert (polygon.polygons[0] * (WIDTH, HEIGHT)).tolist() == pytest.approx(np.array([[1, 1], [9, 1], [9, 8]]))
    assert mask(box).sum() == 35
    assert mask(turned)[2:9, 3:8].sum() == pytest.approx(35, abs=7)
    assert mask(ellipse).sum() == pytest.approx(np.pi * 8, rel=0.15)
    assert mask(drawn)[5:8, 4:7].tolist() == [[False, True, True], [False, True, True], [True, True, True]]
    assert drawn.is_crowd
    assert (len(grouped.polygons), len(other.polygons)) == (2, 1)
    assert cvat.labels_in(tmp_path / "cvat.xml") == ("dog", "cat")


@pytest.mark.parametrize(
    ("entry", "code", "text"),
    [
        ('<polygon points="1,1;9,1;9,8"/>', "D003", "`label` is missing"),
        ('<polygon label="bird" points="1,1;9,1;9,8"/>', "D021", 'called "bird" are left out'),
        ('<polygon label="cat" points="1,1;9,1"/>', "D003", "2 points are no polygon"),
        ('<polygon label="cat" points="1,1;9;9,8"/>', "D003", "are no points"),
        ('<polygon label="cat" points="1,1;9,nan;9,8"/>', "D003", "are no points"),
        ('<polygon label="cat" points="1,1;9,1;900,8"/>', "D004", "leave the image"),
        ('<box label="cat" xtl="2" ytl="3" xbr="9"/>', "D003", "`ybr` is"),
        ('<ellipse label="cat" cx="10" cy="10" rx="-4" ry="2"/>', "D003", "a radius is negative"),
        ('<mask label="cat" rle="1, 2" left="4" top="5" width="3" height="3"/>', "D003", "the runs have 3 pixels"),
        ('<mask label="cat" rle="9" left="4" top="5" width="3" height="3"/>', "D003", "the mask is empty"),
        ('<mask label="cat" rle="9" left="29" top="5" width="3" height="3"/>', "D004", "leaves the image"),
        ('<star label="cat"/>', "D003", "`star` is no kind of shape"),
    ],
)
def test_what_is_wrong_with_a_cvat_shape_is_located(tmp_path, entry, code, text):
    found = read_cvat(tmp_path, "\n", entry, '<box label="dog" xtl="2" ytl="3" xbr="9" ybr="8"/>')
    assert [one.code for one in found.faults] == [code]
    assert text in found.faults[0].message
    assert found.faults[0].line == 5
    assert len(found.instances) == 1


def test_shapes_without_an_area_are_left_out_of_cvat_with_a_warning(tmp_path):
    found = read_cvat(tmp_path, '<polyline label="cat" points="1,1;9,1;9,8"/>', '<tag label="cat"/>')
    assert [(one.code, one.severity) for one in found.faults] == [("D030", "warning")] * 2


def test_a_project_reads_cvat_files(tmp_path):
    cvat_file(tmp_path, '<polygon label="cat" points="1,1;9,1;9,8"/>')
    files = {"train": "cvat.xml", "val": "cvat.xml"}
    loaded = project(tmp_path, format="cvat", annotations=files, train="images", val="images")
    (sample,) = read_split(loaded, "train")
    assert list_images(loaded, "train") == (tmp_path / "images" / "a.png",)
    assert (sample.size, len(sample.instances)) == ((HEIGHT, WIDTH), 1)


@pytest.mark.parametrize(
    ("image", "code"),
    [
        ('name="../a.png" width="30" height="20"', "D003"),
        ('name="/a.png" width="30" height="20"', "D003"),
        ('name="b.png" width="30" height="20"', "D007"),
        ('width="30" height="20"', "D003"),
        ('name="a.png" width="30" height="0"', "D003"),
        ('name="a.png" width="1e9" height="1e9"', "D003"),
        ('name="a.png" width="x" height="9"', "D003"),
    ],
)
def test_an_image_that_cvat_cannot_mean_is_told(tmp_path, image, code):
    cvat_file(tmp_path, image=image)
    files = {"train": "cvat.xml", "val": "cvat.xml"}
    loaded = project(tmp_path, format="cvat", annotations=files, train="images", val="images")
    with pytest.raises(SegcError) as error:
        read_split(loaded, "train")
    assert [one.code for one in error.value.diagnostics] == [code]
    assert error.value.diagnostics[0].line == 3


BOMB = (
    '<!DOCTYPE annotations [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    "<annotations><image>&b;</image></annotations>"
)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no xml",
        "<annotations>",
        "<annotation></annotation>",
        "<annotations><image></annotations>",
        BOMB,
        '<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotations/>',
        "<annotations>" + "<a>" * 1000 + "</a>" * 1000 + "</annotations>",
        '<?xml version="1.0" encoding="no-such"?><annotations/>',
        "<annotations><track id='0'/></annotations>",
    ],
)
def test_xml_that_is_no_cvat_is_refused(tmp_path, text):
    path = tmp_path / "a.xml"
    path.write_text(text)
    with pytest.raises(SegcError) as error:
        list(cvat.images_in(path))
    assert error.value.diagnostics[0].code == "D003"


# -- PNG, VOC and masks


@pytest.mark.parametrize("mode", ["1", "L", "P", "I;16", "RGB", "RGBA", "LA"])
def test_the_numbers_of_a_png_are_those_that_pillow_gives(mode):
    image_module = pytest.importorskip("PIL.Image")
    from io import BytesIO

    values = np.random.default_rng(0).integers(0, 256, (7, 9), np.uint8)
    if mode == "P":
        image = image_module.fromarray(values)
        image = image_module.frombytes("P", (9, 7), values.tobytes())
        image.putpalette(list(range(256)) * 3)
    elif mode == "1":
        values = values % 2
        image = image_module.fromarray(values.astype(bool))
    elif mode == "I;16":
        values = values.astype(np.uint16) * 257 + 3
        values = np.minimum(values, 65_535).astype(np.uint16)
        image = image_module.fromarray(values)
    elif mode in {"RGB", "RGBA", "LA"}:
        image = image_module.fromarray(values).convert(mode)
        values = values.astype(np.uint32) * (1 if mode == "LA" else 0x10101)  # opaque, and so themselves
    else:
        image = image_module.fromarray(values)
    data = BytesIO()
    image.save(data, "PNG")
    assert (read_png(data.getvalue(), "a") == values).all()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_indices_of_small_palettes_are_read(bits):
    image_module = pytest.importorskip("PIL.Image")
    from io import BytesIO

    values = np.random.default_rng(0).integers(0, 2**bits, (7, 9), np.uint8)
    image = image_module.frombytes("P", (9, 7), values.tobytes())
    image.putpalette([200, 10, 10] * 2**bits)
    data = BytesIO()
    image.save(data, "PNG", bits=bits)
    assert data.getvalue()[24] == bits
    assert (read_png(data.getvalue(), "a") == values).all()


def test_what_is_written_with_indices_is_read_with_them():
    values = np.random.default_rng(0).integers(0, 256, (7, 9), np.uint8)
    assert (read_png(indexed_png(values), "a") == values).all()


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_png_is_refused_or_read(data):
    content = bytearray(indexed_png(np.arange(63, dtype=np.uint8).reshape(7, 9)))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(content[: data.draw(st.integers(0, len(content)))])
    with suppress(ValueError):
        assert read_png(cut, "a").ndim == 2


def voc_dataset(folder: Path, objects, classes=None, record=None, labelmap=None) -> Path:
    image = picture(folder / "JPEGImages" / "a.png")
    for name, content in (("SegmentationObject", objects), ("SegmentationClass", classes)):
        if content is not None:
            (folder / name).mkdir()
            data = content if isinstance(content, bytes) else indexed_png(content)
            (folder / name / "a.png").write_bytes(data)
    if record is not None:
        (folder / "Annotations").mkdir()
        named = "".join(f"<object><name>{name}</name></object>" for name in record)
        (folder / "Annotations" / "a.xml").write_text(f"<annotation>{named}</annotation>")
    if labelmap is not None:
        (folder / "labelmap.txt").write_text(labelmap)
    return image


def index_map():
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2:8, 3:12] = 1
    values[4:6, 5:8] = 0
    values[10:15, 3:12] = 2
    values[15, 3:12] = 255
    return values


def test_voc_objects_are_of_the_classes_in_the_record(tmp_path):
    image = voc_dataset(tmp_path, index_map(), record=["dog", "cat"])
    found = voc.read(image, NAMES)
    assert found.faults == []
    assert [one.class_id for one in found.instances] == [1, 0]
    assert (mask(found.instances[0]) == (index_map() == 1)).all()
    assert mask(found.instances[1]).sum() == 45


def test_voc_objects_are_of_the_classes_of_their_pixels_without_a_record(tmp_path):
    classes = np.where(index_map() == 1, 2, np.where(index_map() == 2, 1, 0)).astype(np.uint8)
    image = voc_dataset(tmp_path, index_map(), classes)
    assert [one.class_id for one in voc.read(image, NAMES).instances] == [1, 0]


def test_coloured_exports_with_a_labelmap_are_read(tmp_path):
    objects, classes = (np.zeros((HEIGHT, WIDTH, 3), np.uint8) for _ in range(2))
    objects[index_map() == 1], objects[index_map() == 2] = (0, 0, 128), (0, 128, 0)
    objects[index_map() == 255] = (192, 224, 224)
    classes[index_map() == 1], classes[index_map() == 2] = (10, 20, 30), (60, 50, 40)
    labelmap = "# label:color_rgb:parts:actions\nbackground:0,0,0::\ncat:40,50,60::\ndog:30,20,10::\n"
    image = voc_dataset(tmp_path, png(objects), png(classes), labelmap=labelmap)
    found = voc.read(image, NAMES)
    assert found.faults == []
    assert [one.class_id for one in found.instances] == [0, 1]  # by the colours of the objects


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"record": ["dog"]}, "D003"),
        ({"record": ["dog", "bird"]}, "D021"),
        ({"record": None}, "D006"),
        ({"objects": b"no png", "record": ["dog", "cat"]}, "D003"),
        ({"classes": np.zeros((3, 3), np.uint8)}, "D003"),
        ({"classes": np.full((HEIGHT, WIDTH), 9, np.uint8)}, "D005"),
        ({"classes": np.zeros((HEIGHT, WIDTH), np.uint8), "labelmap": "cat"}, "D003"),
    ],
)
def test_what_is_wrong_with_voc_is_told(tmp_path, changes, code):
    image = voc_dataset(**{"folder": tmp_path, "objects": index_map(), **changes})
    assert {one.code for one in voc.read(image, NAMES).faults} == {code}


def test_a_project_reads_voc_lists(tmp_path):
    voc_dataset(tmp_path, index_map(), record=["dog", "cat"])
    lists = tmp_path / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\n")
    (lists / "val.txt").write_text("a\n\nb\n../a\n")
    names = {"train": "ImageSets/Segmentation/train.txt", "val": "ImageSets/Segmentation/val.txt"}
    loaded = project(tmp_path, format="voc", **names)
    (sample,) = read_split(loaded, "train")
    assert len(sample.instances) == 2
    with pytest.raises(SegcError) as error:
        read_split(loaded, "val")
    assert [(one.code, one.line) for one in error.value.diagnostics] == [("D007", 3), ("D007", 4)]


def test_masks_may_be_numbers_in_one_file(tmp_path):
    image = picture(tmp_path / "images" / "sub" / "a.png")
    place = tmp_path / "masks" / "sub"
    place.mkdir(parents=True)
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[1:5, 1:5], values[6:9, 6:9] = 1002, 7
    (place / "a.png").write_bytes(png(values))
    found = masks.read(image, NAMES)
    assert found.faults == []
    assert [(one.class_id, int(mask(one).sum())) for one in found.instances] == [(0, 9), (1, 16)]
    assert [one.class_id for one in masks.read(image, ("thing",)).instances] == [0, 0]
    values[0, 0] = 9001
    (place / "a.png").write_bytes(png(values))
    assert [one.code for one in masks.read(image, NAMES).faults] == ["D005"]


def test_masks_may_be_a_file_an_object(tmp_path):
    image = picture(tmp_path / "images" / "a.png")
    place = tmp_path / "masks" / "a"
    (place / "cat").mkdir(parents=True)
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    pixels[1:5, 1:5] = 255
    for step, name in enumerate(("dog_1.png", "2_cat.png", "cat/3.png")):
        (place / name).write_bytes(png(np.roll(pixels, step)))
    found = masks.read(image, NAMES)
    assert found.faults == []
    assert sorted(one.class_id for one in found.instances) == [0, 0, 1]
    (place / "bird.png").write_bytes(png(pixels))
    (place / "dog_2.png").write_bytes(png(pixels * 0))
    (place / "dog_3.png").write_bytes(png(pixels[:5]))
    assert [one.code for one in masks.read(image, NAMES).faults] == ["D005", "D003", "D003"]


def mask_class(folder: Path, name: str, names: tuple[str, ...]) -> str:
    """The class of an object by the name of its file; the message where it tells none."""
    image = picture(folder / "images" / "a.png")
    place = folder / "masks" / "a"
    place.mkdir(parents=True)
    (place / name).write_bytes(png(np.full((HEIGHT, WIDTH), 255, np.uint8)))
    found = masks.read(image, names)
    return found.faults[0].message.partition(": ")[2] if found.faults else names[found.instances[0].class_id]


DIGITS = tuple("0123456789")
ODD = ("cat", "cat_2", "0001", "2", "a b_3", "x.y")


@pytest.mark.parametrize(
    ("name", "names", "expected"),
    [
        *((f"{number:04}_{name}.png", names, name) for names in (DIGITS, ODD) for number in (1, 10) for name in names),
        ("0001_x.png", ("X", "x"), "x"),
        ("0002_X.png", ("X", "x"), "X"),
        ("x-1.png", ("X", "x"), "x"),
        ("CAT_1.png", ("cat", "dog"), "cat"),
        ("hot dog_1.png", ("dog", "hot dog"), "hot dog"),
        ("1_hot dog.png", ("dog", "hot dog"), "hot dog"),
        ("cat_12.png", ("cat", "2"), "cat"),
        ("part12.png", ("part1", "part12"), "part12"),
        ("cat_2.png", ("cat", "2"), '"cat_2.png" tells two classes, `cat` and `2`'),
        ("cat_dog.png", ("cat", "dog"), '"cat_dog.png" tells two classes, `cat` and `dog`'),
        ("CAT_1.png", ("Cat", "cat"), '"CAT_1.png" tells two classes, `Cat` and `cat`'),
        ("part12.png", ("part1", "part2"), 'no class of the project is in "part12.png"'),
    ],
)
def test_the_class_of_a_mask_is_what_its_file_says_and_no_other(tmp_path, name, names, expected):
    assert mask_class(tmp_path, name, names) == expected


def test_an_image_alone_in_its_folder_has_the_masks_beside_it(tmp_path):
    image = picture(tmp_path / "x" / "images" / "x.png")
    (tmp_path / "x" / "masks").mkdir()
    pixels = np.zeros((HEIGHT, WIDTH), np.uint8)
    for number in range(3):
        pixels[number * 4 : number * 4 + 3, 1:5] = 255
        (tmp_path / "x" / "masks" / f"{number}f.png").write_bytes(png(pixels))
    assert len(masks.read(image, ("nucleus",)).instances) == 3


def test_a_photograph_is_no_mask(tmp_path):
    image = picture(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    (tmp_path / "masks" / "a.png").write_bytes(png(noise))
    assert "are no mask of objects" in masks.read(image, ("thing",)).faults[0].message


# -- datasets without a project


def test_labels_alone_are_opened_with_the_names_that_they_use(tmp_path):
    read_labelme(tmp_path / "labelme", shape(label="zebra"), shape(label="ant"), shape(label="p", shape_type="point"))
    loaded, splits = open_dataset(tmp_path / "labelme")
    assert (loaded.project.dataset.format, loaded.project.dataset.names, splits) == (
        "labelme",
        ("ant", "zebra"),
        ("train",),
    )
    loaded, _ = open_dataset(cvat_file(tmp_path / "cvat"))
    assert (loaded.project.dataset.format, loaded.project.dataset.names) == ("cvat", ("dog", "cat"))
    voc_dataset(tmp_path / "voc", index_map(), record=["dog", "cat"])
    loaded, _ = open_dataset(tmp_path / "voc")
    assert (loaded.project.dataset.format, loaded.project.dataset.names) == ("voc", ("cat", "dog"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(SegcError) as error:
        open_dataset(tmp_path / "empty")
    assert error.value.diagnostics[0].code == "D035"
    with pytest.raises(SegcError) as error:
        open_dataset(tmp_path / "nowhere")
    assert error.value.diagnostics[0].code == "F001"


@pytest.mark.parametrize("label", ["", "  ", "a\tb"])
def test_a_label_that_is_no_name_is_told_with_its_place(tmp_path, label):
    read_labelme(tmp_path, shape(label="cat"), shape(label=label), shape(label=" cat "))
    loaded, _ = open_dataset(tmp_path)
    found = Findings()
    (sample,) = read_split(loaded, "train", found)
    assert (loaded.project.dataset.names, len(sample.instances)) == (("cat",), 1)
    assert [(one.code, one.file, "/shapes/1" in one.message) for one in found if one.code == "D021"] == [
        ("D021", tmp_path / "a.json", True)
    ]


def yolo_folder(folder, *splits):
    for split in splits:
        for kind, name, content in (("images", "a.png", np.zeros((8, 8), np.uint8)), ("labels", "a.txt", "")):
            (folder / kind / split).mkdir(parents=True)
            path = folder / kind / split / name
            path.write_text(content) if kind == "labels" else cv2.imwrite(str(path), content)
    (folder / "classes.txt").write_text("cat\n")


@pytest.mark.parametrize(
    ("folders", "found"),
    [
        (("train", "val"), {"train": ("images/train",), "val": ("images/val",)}),
        (("training", "valid"), {"train": ("images/training",), "val": ("images/valid",)}),
        (
            ("train", "val", "test"),
            {"train": ("images/train",), "val": ("images/val",), "test": ("images/test",)},
        ),
        (("train", "test"), {"train": ("images/train",), "test": ("images/test",)}),
        (("train", "val", "more"), {"train": ("images/train",), "val": ("images/val",)}),
        (("a", "b"), {"train": ("images",)}),
    ],
)
def test_folders_of_images_are_the_splits_that_they_are_called(tmp_path, folders, found):
    yolo_folder(tmp_path, *folders)
    loaded, splits = open_dataset(tmp_path)
    assert split_paths(loaded, splits) == found
    left = [one for one in loaded.warnings if one.code == "D035"]
    assert [one.message.rpartition(" ")[2] for one in left] == (["images/more"] if "more" in folders else [])


def split_paths(loaded, splits):
    return {
        split: tuple(p.relative_to(loaded.dataset_root).as_posix() for p in loaded.split_paths(split))
        for split in splits
    }


def test_images_beside_the_folders_of_splits_are_left_out_with_a_word(tmp_path):
    yolo_folder(tmp_path, "train", "val")
    for number in range(7):
        picture(tmp_path / "images" / f"{number}.png")
    loaded, _ = open_dataset(tmp_path)
    (told,) = (one for one in loaded.warnings if one.code == "D035")
    assert told.message.endswith("images/3.png, images/4.png and 2 more")


@pytest.mark.parametrize(
    ("lists", "found"),
    [
        (("train",), {"train": "train"}),
        (("train", "val"), {"train": "train", "val": "val"}),
        (("train", "val", "test"), {"train": "train", "val": "val", "test": "test"}),
        (("trainval", "train"), {"train": "train"}),
        (("trainval", "test"), {"train": "trainval", "test": "test"}),
    ],
)
def test_lists_of_voc_are_followed_and_what_they_leave_out_is_counted(tmp_path, lists, found):
    voc_dataset(tmp_path, index_map(), record=["dog", "cat"])
    picture(tmp_path / "JPEGImages" / "lone.png")
    (tmp_path / "ImageSets" / "Segmentation").mkdir(parents=True)
    for name in lists:
        (tmp_path / "ImageSets" / "Segmentation" / f"{name}.txt").write_text("a\n")
    loaded, splits = open_dataset(tmp_path)
    assert split_paths(loaded, splits) == {
        split: (f"ImageSets/Segmentation/{name}.txt",) for split, name in found.items()
    }
    (told,) = (one for one in loaded.warnings if one.code == "D022")
    assert told.message.startswith("1 of 2 images are in none")


def test_classes_that_are_guessed_from_names_of_masks_are_said(tmp_path):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "masks" / "a").mkdir(parents=True)
    for name in ("part_1.png", "part_2.png"):
        (tmp_path / "masks" / "a" / name).write_bytes(png(np.full((HEIGHT, WIDTH), 255, np.uint8)))
    (told,) = (one for one in open_dataset(tmp_path)[0].warnings if one.code == "X205")
    assert told.message.endswith("left out: part")
    loaded, _ = open_dataset(tmp_path, names=("part_1", "part_2"))
    assert "X205" not in {one.code for one in loaded.warnings}
    assert [one.class_id for one in read_split(loaded, "train")[0].instances] == [0, 1]


def test_numbers_of_several_classes_are_no_class_of_one_without_a_word(tmp_path):
    picture(tmp_path / "images" / "a.png")
    (tmp_path / "masks").mkdir()
    values = np.zeros((HEIGHT, WIDTH), np.uint16)
    values[1:5, 1:5], values[6:9, 6:9] = 1002, 7
    (tmp_path / "masks" / "a.png").write_bytes(png(values))
    loaded, _ = open_dataset(tmp_path)
    found = Findings()
    read_split(loaded, "train", found)
    (told,) = found
    assert (told.code, told.severity) == ("D005", "warning")
    assert "all are `object` here" in told.message
    found = Findings()
    read_split(open_dataset(tmp_path, names=NAMES)[0], "train", found)
    assert not found


def test_a_folder_with_a_data_file_is_what_that_says(tmp_path):
    yolo_folder(tmp_path, "some", "others")
    (tmp_path / "data.yaml").write_text("train: images/others\nval: images/some\nnames: [dog]\n")
    loaded, splits = open_dataset(tmp_path)
    assert (splits, loaded.project.dataset.names) == (("train", "val"), ("dog",))
    assert loaded.split_paths("train") == (tmp_path / "images" / "others",)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_mutated_label_files_end_in_diagnostics(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("mutated")
    if data.draw(st.booleans()):
        read_labelme(folder, shape(), shape(shape_type="circle", points=[[10, 10], [14, 10]]))
        path = folder / "a.json"
    else:
        path = cvat_file(folder, '<mask label="cat" rle="1, 2, 1, 5" left="4" top="5" width="3" height="3"/>')
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.sampled_from(b'0"9-{[<>,.eN\xff\x00 /'))
    path.write_bytes(bytes(content))
    if path.suffix == ".json":
        labelme.read(folder / "a.png", NAMES)
        return
    with suppress(SegcError):
        for element in cvat.images_in(path):
            cvat.read(element, path, NAMES)


def test_elements_come_without_the_file_being_kept(tmp_path):
    path = tmp_path / "large.xml"
    path.write_text("<annotations>" + '<image name="a"/>' * 200_000 + "</annotations>")
    assert sum(1 for _ in elements(path, "annotations")) == 200_000
