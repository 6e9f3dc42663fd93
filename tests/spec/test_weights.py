"""How weights are named."""

import string
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from segc.architectures.published import PUBLISHED
from segc.spec.architecture import Architecture
from segc.spec.licences import allows
from segc.spec.weights import NoReferenceError, parse_reference

RELEASE = "https://github.com/ultralytics/assets/releases/download/v8.1.0"


@pytest.mark.parametrize("scale", "nsmlx")
def test_published_names_lead_to_the_files_of_their_releases(scale: str) -> None:
    reference = parse_reference(f"yolov8{scale}-seg")
    assert reference.address == f"{RELEASE}/yolov8{scale}-seg.pt"
    assert reference.published is not None
    row = reference.published
    assert (row.family, row.scale, row.classes, row.licence) == ("yolov8-seg", scale, 80, "AGPL-3.0")
    assert parse_reference(row.address).published is row


def test_rows_state_what_their_sources_can_state() -> None:
    for name, row in PUBLISHED.items():
        assert row.name == name
        assert row.address.startswith("https://")
        assert set(row.sha256) <= set(string.hexdigits.lower())
        assert len(row.sha256) <= 64
        assert 0 < row.mask_ap < row.box_ap < 100
        assert row.source.startswith("https://")
        Architecture(family=row.family, scale=row.scale)


def test_a_name_with_its_suffix_is_the_file_of_that_name_where_there_is_one(tmp_path: Path) -> None:
    reference = parse_reference("yolov8n-seg.pt")
    assert reference.file(tmp_path) is None
    assert reference.published is not None
    (tmp_path / "yolov8n-seg.pt").write_bytes(b"")
    assert reference.file(tmp_path) == tmp_path / "yolov8n-seg.pt"
    assert parse_reference("yolov8n-seg").file(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("https://example.org/a/b.pt", "https://example.org/a/b.pt"),
        ("HTTPS://example.org/ä b.pt", "HTTPS://example.org/%C3%A4%20b.pt"),
        ("https://example.org/%C3%A4.pt?x=1#part", "https://example.org/%C3%A4.pt?x=1"),
        ("hf://owner/repo/w.safetensors", "https://huggingface.co/owner/repo/resolve/main/w.safetensors"),
        ("hf://owner/my.repo@v1.0/a/w b.pt", "https://huggingface.co/owner/my.repo/resolve/v1.0/a/w%20b.pt"),
    ],
)
def test_addresses_are_fetched_from(text: str, address: str) -> None:
    reference = parse_reference(text)
    assert reference.address == address
    assert reference.path is None


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("start.safetensors", "start.safetensors"),
        ("../runs/best.safetensors", "../runs/best.safetensors"),
        ("./yolov8n-seg", "./yolov8n-seg"),
        ("folder/yolov8n-seg.pt", "folder/yolov8n-seg.pt"),
        ("model.bin", "model.bin"),
        ("file:///srv/a%20b.pt", "/srv/a b.pt"),
        ("file://localhost/srv/w.pt", "/srv/w.pt"),
    ],
)
def test_everything_else_is_a_file_whatever_its_suffix(text: str, path: str) -> None:
    reference = parse_reference(text)
    assert (reference.path, reference.address) == (path, None)
    assert reference.file(Path("/root")) == Path("/root") / path


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "a\nb.pt", "x" * 3000, "yolov8q-seg", "start", "http://example.org/w.pt", "ftp://example.org/w.pt"),
        *("https://", "https://example.org", "https://example.org/", "https://[/w.pt", "https://a:b/w.pt"),
        *("https://user:secret@example.org/w.pt", "https://exämple.org/w.pt"),
        *("hf://owner", "hf://owner/repo", "hf://owner/repo/../../w", "hf://owner/repo//w", "hf://../repo/w"),
        *("file://elsewhere/w.pt", "file://", "file:///"),
    ],
)
def test_what_names_nothing_is_refused_with_a_way_out(text: str) -> None:
    with pytest.raises(NoReferenceError) as caught:
        parse_reference(text)
    assert caught.value.message
    assert caught.value.way_out
    assert "secret" not in caught.value.message


@given(
    st.one_of(
        st.text(max_size=60),
        st.builds("{}://{}".format, st.sampled_from(["https", "hf", "file"]), st.text(max_size=60)),
    )
)
@example("https://\ufdfa/x")
@example("https://a/\ud800".encode(errors="replace").decode())
@settings(max_examples=500, deadline=None)
def test_any_text_names_something_or_is_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except NoReferenceError:
        return
    assert (reference.path is None) != (reference.address is None) or reference.published
    if reference.address is not None:
        assert reference.address.isascii()
        assert reference.address.isprintable()
        assert set(reference.file_name) <= set(string.ascii_letters + string.digits + "._-")
        assert reference.file_name
        assert not reference.file_name.startswith(".")


@pytest.mark.parametrize(
    ("licence", "fits"),
    [
        *(
            ("MIT", True),
            ("mit", True),
            ("MIT License", True),
            ("MIT (see https://example.org)", True),
            (" MIT ", True),
        ),
        *(("MITX", False), ("AGPL-3.0", False), ("AGPL-3.0 (MIT for some)", False), (None, False), ("", False)),
        *(("MIT OR GPL-3.0", False), ("Apache-2.0", True)),
    ],
)
def test_licences_are_allowed_by_name(licence: str | None, fits: bool) -> None:
    assert allows(["MIT", "apache-2.0"], licence) == fits
    assert allows(None, licence)
