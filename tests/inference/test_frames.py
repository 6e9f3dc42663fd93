import time

import cv2
import numpy as np
import pytest

from segc.inference import frames as frames_module
from segc.inference.frames import Ended, Frame, Multipart, Reading, Unread, read_frames
from segc.inference.pipeline import Line
from segc.inference.sources import ImageError, SourceError, find_sources
from tests.inference.streams import serving
from tests.inference.videos import pictures, time_matroska, turn, vary_rate, write_video


def read(items, **reading):
    """Everything that sources give: frames, what cannot be read, tallies; and what was said."""
    said = []
    with Line() as line:
        found = list(read_frames(find_sources([str(item) for item in items]), line, Reading(**reading), said.append))
    return (
        [one for one in found if isinstance(one, Frame)],
        [str(one.error) for one in found if isinstance(one, Unread)],
        [one.tally for one in found if isinstance(one, Ended)],
        said,
    )


def near(image, expected):
    return np.abs(image.astype(int) - expected).mean() < 6


# Files


@pytest.mark.parametrize(("suffix", "code"), [(".mp4", "mp4v"), (".avi", "MJPG"), (".mkv", "mp4v"), (".ts", "mp4v")])
def test_a_video_gives_all_its_frames_with_their_numbers_and_times(tmp_path, suffix, code):
    path = write_video(tmp_path / f"clip{suffix}", code=code)
    frames, errors, (tally,), _ = read([path])
    assert not errors
    assert [frame.index for frame in frames] == list(range(12))
    assert np.diff([frame.seconds for frame in frames]) == pytest.approx([0.1] * 11, abs=0.002)
    assert all(near(frame.image, expected) for frame, expected in zip(frames, pictures(12), strict=True))
    assert frames[0].rate == pytest.approx(10)
    assert not tally.remarks()


def test_a_stride_leaves_out_frames_and_keeps_their_numbers(tmp_path):
    frames, _, (tally,), _ = read([write_video(tmp_path / "clip.mp4")], stride=5)
    assert [frame.index for frame in frames] == [0, 5, 10]
    assert [frame.seconds for frame in frames] == pytest.approx([0, 0.5, 1.0])
    assert not tally.remarks()


def test_frames_are_turned_as_the_file_asks(tmp_path):
    path = write_video(tmp_path / "clip.mp4")
    turn(path, 96)
    frames, _, (tally,), _ = read([path])
    assert frames[3].image.shape == (128, 96, 3)
    upright = list(pictures(12))[3]
    assert near(frames[3].image, cv2.rotate(upright, cv2.ROTATE_90_CLOCKWISE))
    assert tally.remarks() == ["turned by 90 degrees as the file says"]


def test_a_variable_rate_keeps_the_times_of_frames(tmp_path):
    path = write_video(tmp_path / "clip.mp4")
    ticks = ticks_of(path)
    # As long as before in all: an edit list would cut off what is longer.
    vary_rate(path, [(4, ticks // 2), (4, 2 * ticks), (4, ticks // 2)])
    frames, _, (tally,), _ = read([path])
    assert np.diff([frame.seconds for frame in frames]) == pytest.approx([0.05] * 4 + [0.2] * 4 + [0.05] * 3, abs=0.002)
    assert tally.remarks() == ["variable frame rate: 50 to 200 ms a frame"]


def ticks_of(path):
    """The duration of a frame in the file's own unit."""
    data = path.read_bytes()
    return int.from_bytes(data[data.index(b"stts") + 16 :][:4])


def test_broken_frames_are_stepped_over_and_counted(tmp_path):
    path = write_video(tmp_path / "clip.avi", 20, code="MJPG")
    data = bytearray(path.read_bytes())
    chunks = [at for at in range(data.index(b"movi"), len(data)) if data.startswith(b"00dc", at)][:20]
    for chunk in chunks[7:9]:
        data[chunk + 8 : chunk + 400] = bytes(392)
    path.write_bytes(data)
    frames, errors, (tally,), _ = read([path])
    assert not errors
    assert [frame.index for frame in frames] == [*range(7), *range(9, 20)]
    assert near(frames[-1].image, list(pictures(20))[-1])
    assert tally.remarks() == ["2 broken and left out"]


def test_of_a_file_that_is_cut_off_the_frames_that_are_there_are_read(tmp_path):
    path = write_video(tmp_path / "clip.avi", 20, code="MJPG")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, _, (tally,), _ = read([path])
    assert 4 < len(frames) < 16
    assert tally.remarks() == [f"the file speaks of 20 frames: {20 - len(frames)} are not in it"]


@pytest.mark.parametrize("suffix", [".mkv", ".webm"])
def test_a_number_that_is_duration_times_rate_is_not_held_against_frames_of_a_variable_rate(tmp_path, suffix):
    path = write_video(tmp_path / "clip.mkv", 20).rename(tmp_path / f"clip{suffix}")
    times = [number * number * 17 for number in range(20)]
    time_matroska(path, times, 1, times[-1] + 20)
    assert cv2.VideoCapture(str(path)).get(cv2.CAP_PROP_FRAME_COUNT) > 1000
    frames, errors, (tally,), _ = read([path])
    assert not errors
    assert [frame.seconds for frame in frames] == pytest.approx([time / 1000 for time in times])
    assert tally.remarks() == ["variable frame rate: 17 to 629 ms a frame"]


@pytest.mark.parametrize(("duration", "said"), [(2000, False), (2600, False), (4000, True)])
def test_a_file_that_lasts_much_longer_than_its_frames_at_their_steady_rate_is_told(tmp_path, duration, said):
    path = write_video(tmp_path / "clip.mkv", 20)
    time_matroska(path, list(range(0, 2000, 100)), 100, duration)
    frames, _, (tally,), _ = read([path])
    assert len(frames) == 20
    assert tally.remarks() == ["duration and rate of the file make 40 frames: 20 are not in it"] * said


def test_of_a_matroska_file_that_is_cut_off_the_missing_frames_are_told(tmp_path):
    path = write_video(tmp_path / "clip.mkv", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    frames, _, (tally,), _ = read([path])
    missing = 40 - len(frames)
    assert 10 < missing < 30
    assert tally.remarks() == [f"duration and rate of the file make 40 frames: {missing} are not in it"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"no video",
        b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"\0\0\0\x20ftypisom" + b"x" * 500,
    ],
    ids=["empty", "text", "playlist", "list", "cut off"],
)
def test_what_is_no_video_is_one_error_and_opens_nothing_else(tmp_path, text, capfd):
    path = tmp_path / "clip.mp4"
    path.write_bytes(text)
    frames, errors, tallies, _ = read([path])
    assert (frames, tallies) == ([], [])
    assert len(errors) == 1
    assert errors[0].startswith(f"{path}: ")
    assert capfd.readouterr().err == ""


def test_photographs_and_videos_of_a_folder_come_in_order(tmp_path):
    write_video(tmp_path / "b.mp4", 3)
    for name in ("a.png", "c.png", "d.png"):
        (tmp_path / name).write_bytes(cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes())
    frames, *_ = read([tmp_path], workers=3)
    assert [(frame.source.path.name, frame.index) for frame in frames] == [
        ("a.png", 0),
        ("b.mp4", 0),
        ("b.mp4", 1),
        ("b.mp4", 2),
        ("c.png", 0),
        ("d.png", 0),
    ]
    assert [frame.seconds is None for frame in frames] == [True, False, False, False, True, True]


def test_a_video_is_known_by_its_beginning_where_its_name_says_nothing(tmp_path):
    path = write_video(tmp_path / "clip.mp4", 3).rename(tmp_path / "recording")
    assert len(read([path])[0]) == 3


def test_a_camera_that_is_not_there_is_one_error():
    _, errors, _, _ = read([97])
    assert errors == ["camera 97: no such camera, or another program uses it"]


# Lists


def test_a_list_names_sources_beside_it_or_from_here(tmp_path, monkeypatch):
    (tmp_path / "far").mkdir()
    picture = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    for name in ("far/a.png", "b.png"):
        (tmp_path / name).write_bytes(picture)
    (tmp_path / "far" / "list.txt").write_text("\ufeff# pictures\n\na.png\nb.png\nhttp://host/c.png\n")
    monkeypatch.chdir(tmp_path)
    found = [(source.name, source.kind) for source in find_sources(["far/list.txt"])]
    assert found == [("far/a.png", "image"), ("b.png", "image"), ("http://host/c.png", "web")]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b"", "an empty list"),
        (b"\xff\xfe", "not a text"),
        (b"a.png\n", r"list\.txt:1: .*no such file"),
        (b"list.txt\n", "names no list"),
        (b"-\n", "no standard input"),
        (b"a\0b\n", r"list\.txt:1: "),
    ],
)
def test_a_list_that_names_nothing_is_refused_with_its_line(tmp_path, text, says):
    path = tmp_path / "list.txt"
    path.write_bytes(text)
    with pytest.raises(SourceError, match=says):
        find_sources([str(path)])


# Streams


@pytest.fixture
def camera(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as address:
        yield address


@pytest.mark.parametrize("path", ["/live", "/short"])
def test_a_stream_of_pictures_gives_them_until_it_says_that_it_ends(camera, path):
    frames, errors, (tally,), said = read([camera + path], newest=False)
    assert (errors, said, tally.remarks()) == ([], [], [])
    assert [frame.index for frame in frames] == list(range(8))
    assert all((frame.image == expected).all() for frame, expected in zip(frames, pictures(8), strict=True))
    assert all(frame.is_live and frame.seconds >= 0 for frame in frames)


def test_of_a_live_source_the_newest_frame_counts(camera):
    frames = []
    with Line() as line:
        for one in read_frames(find_sources([f"{camera}/live"]), line, Reading(), print):
            time.sleep(0.05)
            frames.append(one)
    *shown, ended = frames
    assert shown[-1].index == 7
    assert 0 < ended.tally.dropped == 8 - len(shown)
    assert ended.tally.remarks() == [f"{ended.tally.dropped} dropped, as newer ones were there"]


def test_broken_pictures_of_a_stream_are_counted(camera):
    frames, _, (tally,), _ = read([f"{camera}/broken"], newest=False)
    assert [frame.index for frame in frames] == [0, 1, 3, 4, 6, 7]
    assert tally.remarks() == ["2 broken and left out"]


def test_a_lost_stream_is_asked_for_again(camera, monkeypatch):
    monkeypatch.setattr(frames_module, "LONGEST_PAUSE", 0.05)
    frames, errors, (tally,), said = read([f"{camera}/lost"], newest=False)
    assert not errors
    assert [frame.index for frame in frames] == list(range(12))
    assert tally.remarks() == ["lost and asked for again 1 times"]
    assert said == [
        f"{camera}/lost: the download broke off (the stream ended in the middle); asked for again in 0.05 s"
    ]


def test_a_stream_that_stays_away_is_given_up(camera, monkeypatch):
    monkeypatch.setattr(frames_module, "LONGEST_PAUSE", 0.01)
    monkeypatch.setattr(frames_module, "MOST_TRIES", 3)
    frames, errors, (tally,), said = read([f"{camera}/gone"], newest=False)
    assert len(frames) == 4
    assert errors == [f"{camera}/gone: the server answered 404 Not Found"]
    assert tally.reconnected == len(said) == 3


def test_stopping_ends_a_wait_for_a_lost_stream(camera):
    with Line() as line:
        started = time.monotonic()
        found = []

        def told(text):
            found.append(text)
            line.stop()

        list(read_frames(find_sources([f"{camera}/lost"]), line, Reading(newest=False), told))
    assert found
    assert time.monotonic() - started < 0.9


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"x" * 20_000, "larger than any picture"),
        (b"--b\r\n" + b"h" * 20_000, "larger than any picture"),
        (b"--b\r\n\r\n" + b"x" * 300_000, "larger than any picture"),
        (b"--b\r\nContent-Length: 5\r\n\r\nabcde" + b"x" * 20_000, "larger than any picture"),
    ],
    ids=["no boundary", "head", "body", "behind the body"],
)
def test_the_parts_of_a_stream_are_bounded(answer, says, monkeypatch):
    monkeypatch.setattr(frames_module, "MAX_DOWNLOAD", 100_000)
    chunks = iter([answer[at : at + 1000] for at in range(0, len(answer), 1000)])
    with pytest.raises(ImageError, match=says):
        list(Multipart(lambda _: next(chunks, b""), b"b").bodies())


def test_a_stream_that_trickles_is_given_up(monkeypatch):
    monkeypatch.setattr(frames_module, "SOCKET_SECONDS", 0.05)

    def trickle(_):
        time.sleep(0.01)
        return b"x"

    with pytest.raises(ImageError, match=r"no whole picture for 0\.05 s"):
        list(Multipart(trickle, b"b").bodies())
