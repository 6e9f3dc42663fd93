"""Everything around the network, by ``segc predict`` with a network that finds what is bright."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import psutil
import pytest
from PIL import Image

from segc import cli
from segc.inference import jobs
from segc.inference.filters import Filters
from segc.inference.frames import Frame, Reading
from segc.inference.jobs import predict_sources
from segc.inference.metadata import ModelError
from segc.inference.output import partial_path
from segc.inference.pipeline import Line
from segc.inference.recording import Recording
from segc.inference.sources import Source, SourceError, find_sources
from segc.inference.writing import plan_files
from tests.inference.stand_in import Bright
from tests.inference.streams import serving
from tests.inference.videos import pictures, turn, vary_rate, write_video


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    return tmp_path


@pytest.fixture
def predict(monkeypatch):
    """Runs the command with a network; its exit status."""

    def run(*arguments, network=None):
        session = Bright() if network is None else network
        monkeypatch.setattr("segc.sessions.artifact.open_artifact", lambda *_, **__: session)
        return cli.run(["predict", *map(str, arguments), "--artifact", "model.onnx", "-o", "out"])

    return run


def save(folder, images, suffix=".png"):
    folder.mkdir()
    for number, image in enumerate(images):
        (folder / f"{number:03}{suffix}").write_bytes(cv2.imencode(suffix, image)[1].tobytes())


def frames_of(path):
    capture = cv2.VideoCapture(str(path))
    assert capture.isOpened()
    found = []
    while (frame := capture.read())[0]:
        found.append(frame[1])
    return found, capture.get(cv2.CAP_PROP_FPS)


def lines(path="out/predictions.jsonl"):
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def leftovers(folder):
    return [path for path in folder.rglob("*") if "partial" in path.name]


# What is found is found however the pictures come


def test_frames_of_a_stream_are_predicted_as_the_saved_frames_are(here, predict):
    save(here / "saved", pictures(8))
    assert predict("saved", "--save", "jsonl", "--no-overlay") == 0
    expected = [record["detections"] for record in lines()]
    assert all(expected)
    with serving() as address:
        assert predict(f"{address}/live", "--save", "jsonl", "--no-overlay", "--every", "frame") == 0
    assert [record["detections"] for record in lines()] == expected
    assert [record["frame"] for record in lines()] == list(range(8))


def test_frames_of_a_video_are_predicted_as_the_saved_frames_are(here, predict):
    video = write_video(here / "clip.mp4")
    turn(video, 96)
    save(here / "saved", frames_of(video)[0])
    assert predict("saved", "--save", "jsonl", "--no-overlay") == 0
    expected = [(record["height"], record["detections"]) for record in lines()]
    assert predict("clip.mp4", "--save", "jsonl") == 0
    assert [(record["height"], record["detections"]) for record in lines()] == expected
    assert [record["seconds"] for record in lines()] == pytest.approx(np.arange(12) / 10, abs=0.001)


def test_an_image_comes_through_a_pipe(here, predict, monkeypatch):
    (image,) = pictures(1)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as pipe:
        pipe.write(cv2.imencode(".png", image)[1].tobytes())
    with os.fdopen(reading, "rb") as pipe:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=pipe))
        assert predict("-", "--save-json") == 0
    (record,) = json.loads((here / "out/predictions.json").read_text())
    assert (record["image"], len(record["detections"])) == ("-", 1)
    assert (here / "out/stdin.jpg").is_file()


@pytest.mark.parametrize("batch", [3, 4])
def test_a_model_of_a_fixed_batch_gets_as_many_pictures_together(here, predict, batch):
    save(here / "saved", pictures(8))
    (here / "saved" / "002b.png").write_bytes(b"no image")
    network = Bright(batch=batch)
    assert predict("saved", "--save", "jsonl", "--no-overlay") == 1
    expected = lines()
    assert predict("saved", "--save", "jsonl", "--no-overlay", network=network) == 1
    assert lines() == expected
    assert len(network.batches) == -(-8 // batch)


def test_pictures_behind_the_first_of_a_file_are_told(here, predict, capsys):
    first = Image.new("RGB", (64, 48))
    first.save(here / "pages.tif", save_all=True, append_images=[first, first])
    assert predict("pages.tif") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("pages.tif: ")]
    assert "; only the first picture of the file, without 2 more -> " in line


def test_an_error_is_told_in_its_place(here, predict, capfd):
    save(here / "saved", pictures(6))
    (here / "saved" / "002.png").write_bytes(b"no image")
    assert predict("saved", "--no-overlay") == 1
    captured = capfd.readouterr()
    assert re.findall(r"saved/(\d+)\.png:", captured.out) == ["000", "001", "003", "004", "005"]
    assert captured.err.count("error[I002]") == 1


def test_reading_goes_on_while_the_network_works_and_waits_for_it(here, predict):
    save(here / "saved", pictures(40))
    threads = set()

    def before(_):
        threads.add(threading.current_thread())
        time.sleep(0.005)

    assert predict("saved", "--save-json", network=Bright(before=before)) == 0
    assert threading.main_thread() not in threads
    assert len(json.loads((here / "out/predictions.json").read_text())) == 40


def test_large_pictures_under_way_are_few(monkeypatch):
    monkeypatch.setattr(jobs, "MOST_UNDER_WAY", 5000)
    frame = Frame(np.zeros((10, 100, 3), np.uint8), Source("a"))
    taken = []
    with Line() as line:
        budget = jobs._Budget(line, 2)
        stage = line.stage((taken.append(one) or one for one in budget.admitted([frame] * 10)), room=100)
        time.sleep(0.1)
        # One fits, another may come for the batch that waits for it.
        assert len(taken) == 2
        for _ in range(10):
            budget.release(next(stage))
        assert len(taken) == 10


# Annotated videos


@pytest.mark.parametrize("size", [(96, 128), (97, 131), (30, 44)])
def test_an_annotated_video_has_every_frame_at_the_rate_of_the_source(here, predict, capsys, size):
    write_video(here / "clip.avi", size=(size[0] // 2 * 2, size[1] // 2 * 2), code="MJPG")
    assert predict("clip.avi") == 0
    found, rate = frames_of(here / "out" / "clip.mp4")
    assert len(found) == 12
    assert rate == pytest.approx(10)
    told = capsys.readouterr().out.splitlines()[-1]
    assert re.search(r"12 frames of \d+x\d+, 12 dog, .* -> out/clip\.mp4 \((H\.264|MPEG-4 Part 2) at 10 frames", told)
    assert not leftovers(here)


def test_odd_sides_are_padded_in_a_video(tmp_path):
    image = np.full((97, 131, 3), 90, np.uint8)
    first = Frame(image, Source("clip"), 0, 0.0, 10.0)
    recording = Recording(tmp_path / "clip", first, 1)
    for index in range(5):
        recording.add(image, index / 10)
    recording.add(np.full((50, 60, 3), 200, np.uint8), 0.5)
    assert recording.finish().endswith("at 10 frames a second, 1 of another size, fitted in")
    found, _ = frames_of(tmp_path / "clip.mp4")
    assert [frame.shape for frame in found] == [(98, 132, 3)] * 6
    assert np.abs(found[2].astype(int) - 90).max() < 12
    assert np.abs(found[5].astype(int) - 200).max() < 12


def test_a_variable_rate_is_kept_by_repeating_and_leaving_out(here, predict, capsys):
    path = write_video(here / "clip.mp4")
    data = path.read_bytes()
    ticks = int.from_bytes(data[data.index(b"stts") + 16 :][:4])
    vary_rate(path, [(4, ticks // 2), (4, 2 * ticks), (4, ticks // 2)])
    assert predict("clip.mp4") == 0
    found, _ = frames_of(here / "out" / "clip.mp4")
    # From 0 to the last frame, at 1.15 s.
    assert len(found) == 13
    assert "to keep the time" in capsys.readouterr().out


def test_a_clock_that_jumps_makes_no_endless_video(tmp_path):
    image = np.zeros((32, 32, 3), np.uint8)
    recording = Recording(tmp_path / "clip", Frame(image, Source("clip"), 0, 5.0, 10.0), 1)
    for seconds in (5.0, 1e9, 1e9 + 0.1, 3.0, 3.1):
        recording.add(image, seconds)
    recording.finish()
    assert len(frames_of(tmp_path / "clip.mp4")[0]) <= 105


def test_a_stride_makes_a_video_of_fewer_frames_as_long_as_before(here, predict):
    write_video(here / "clip.mp4", 20)
    assert predict("clip.mp4", "--stride", "4", "--save", "jsonl") == 0
    found, rate = frames_of(here / "out" / "clip.mp4")
    assert (len(found), rate) == (5, pytest.approx(2.5))
    assert [record["frame"] for record in lines()] == [0, 4, 8, 12, 16]


def test_a_live_source_gets_a_video_that_can_be_played_up_to_its_end(here, predict):
    with serving() as address:
        assert predict(f"{address}/live", "--every", "frame") == 0
    found, rate = frames_of(here / "out" / "live.mkv")
    assert found
    assert rate == pytest.approx(10)


# Endings


@pytest.mark.alone
def test_ctrl_c_ends_it_with_what_was_predicted_written(here, predict, capsys):
    def before(run):
        if run == 6:
            signal.raise_signal(signal.SIGINT)

    with serving() as address:
        network = Bright(before=before)
        arguments = ("--save", "json,jsonl,coco,csv", "--every", "frame")
        assert predict(f"{address}/endless", *arguments, network=network) == 130
    records = json.loads((here / "out/predictions.json").read_text())
    assert records
    assert [record["frame"] for record in records] == list(range(len(records)))
    assert len(lines()) == len(records)
    assert len(json.loads((here / "out/coco_results.json").read_text())) == len(records)
    assert frames_of(here / "out/endless.mkv")[0]
    assert not leftovers(here)
    told = capsys.readouterr().out
    assert "ended early" in told
    assert re.search(r"endless: \d+ frames of 128x96, \d+ dog, .* -> out/endless\.mkv", told)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("here")
@pytest.mark.alone
def test_what_was_dropped_until_then_is_told(predict, capsys):
    def before(run):
        time.sleep(0.05)
        if run == 6:
            signal.raise_signal(signal.SIGINT)

    with serving() as address:
        assert predict(f"{address}/endless", network=Bright(before=before)) == 130
    assert re.search(r"[1-9]\d* dropped, as newer ones were there", capsys.readouterr().out)


@pytest.mark.alone
def test_a_video_that_is_left_early_is_not_said_to_be_cut_off(here, predict, capsys):
    write_video(here / "clip.mp4", 60)

    def before(run):
        if run == 6:
            signal.raise_signal(signal.SIGINT)

    assert predict("clip.mp4", "--save", "json", network=Bright(before=before)) == 130
    told = capsys.readouterr().out
    assert "speaks of" not in told
    assert frames_of(here / "out/clip.mp4")[0]
    assert len(json.loads((here / "out/predictions.json").read_text())) < 60


def test_a_model_that_breaks_down_leaves_nothing_half_written(here, predict, capsys):
    save(here / "saved", pictures(6))

    def before(run):
        if run == 3:
            raise ModelError("it broke down")

    assert predict("saved", "--save", "json,jsonl", network=Bright(before=before)) == 1
    assert "it broke down" in capsys.readouterr().err
    assert not (here / "out/predictions.json").exists()
    # Where it broke down before the first result was written there is no file.
    assert not (here / "out/predictions.jsonl").exists() or len(lines()) <= 3
    assert not leftovers(here)


KILLED = """
import sys
from segc.inference.filters import Filters
from segc.inference.frames import Reading
from segc.inference.jobs import predict_sources
from segc.inference.writing import plan_files
from segc.inference.sources import find_sources
from pathlib import Path
from tests.inference.stand_in import Bright
network, sources = Bright(), find_sources(["clip.mkv"])
plan = plan_files(sources, Path("out"), {"json", "jsonl", "overlay"})
given = (sources, plan, network.run, network.metadata, Filters())
predict_sources(*given, runtime="a test", told=print, failed=print, reading=Reading())
"""


def test_after_a_kill_all_lines_but_perhaps_the_last_are_whole(here):
    write_video(here / "clip.mkv", 400)
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.DEVNULL, env=paths())
    path = here / "out/predictions.jsonl"
    while process.poll() is None and not (path.exists() and path.read_bytes().count(b"\n") >= 20):
        time.sleep(0.005)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    *whole, _ = path.read_text().split("\n")
    assert [json.loads(line)["frame"] for line in whole] == list(range(len(whole)))
    assert len(whole) >= 20
    assert not (here / "out/predictions.json").exists()
    assert not (here / "out/clip.mp4").exists()


def test_what_killed_runs_have_not_finished_goes_and_what_others_are_writing_stays(here, predict, capsys):
    write_video(here / "clip.mkv", 400)
    save(here / "in", pictures(1))
    process = subprocess.Popen([sys.executable, "-c", KILLED], stdout=subprocess.DEVNULL, env=paths())
    try:
        while process.poll() is None and len(leftovers(here / "out")) < 2:
            time.sleep(0.005)
        process.send_signal(signal.SIGSTOP)
        mine = set(leftovers(here / "out"))
        assert len(mine) == 2
        assert predict("in", "--save", "txt") == 0
        assert set(leftovers(here / "out")) == mine
        assert "removed" not in capsys.readouterr().out
    finally:
        process.kill()
        # On Linux it counts as gone before anybody has waited for it.
        os.waitid(os.P_PID, process.pid, os.WEXITED | (os.WNOWAIT if sys.platform == "linux" else 0))
    (here / "out/labels/.000.txt").write_text("")
    other = partial_path(here / "out/labels/000.txt")
    alike = other.with_name(other.name.replace(str(os.getpid()), str(process.pid)))
    elsewhere = other.with_name(f".000.txt.{'0' * 8}.{process.pid}.partial")
    for path in (other, alike, elsewhere):
        path.write_text("")
    assert predict("in") == 0
    assert "out: 3 unfinished files of killed runs removed" in capsys.readouterr().out
    assert sorted(leftovers(here / "out")) == sorted([other, elsewhere])
    assert (here / "out/labels/.000.txt").exists()
    process.wait()


def test_files_with_the_longest_names_are_written(here, predict):
    save(here / "in", pictures(1))
    (here / "in/000.png").rename(here / "in" / f"{'狗' * 80}.png")
    assert predict("in", "--save", "json") == 0
    assert (here / "out" / f"{'狗' * 80}.png").exists()


def paths():
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}


# What must not happen


def test_the_latest_frame_of_files_is_refused(here, predict, capsys):
    write_video(here / "clip.mp4", 2)
    assert predict("clip.mp4", "--every", "latest") == 1
    assert "I006" in capsys.readouterr().err


def test_a_kind_that_cannot_be_written_is_refused_with_those_that_can(here, predict, capsys):
    write_video(here / "clip.mp4", 2)
    assert predict("clip.mp4", "--save", "jsonl,xml") == 2
    assert "there is no xml; there are overlay, json, jsonl" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("source", "kinds"),
    [("out/clip.mp4", ["overlay"]), ("out/a.jpg", ["overlay"]), ("out/index/a.png", ["index"])],
)
def test_no_source_is_written_over(here, source, kinds):
    path = here / source
    path.parent.mkdir(parents=True)
    path.write_bytes(b"")
    with pytest.raises(SourceError, match="is a source"):
        plan_files(find_sources([source]), here / "out", kinds)


def test_no_source_is_written_over_by_what_nobody_foresaw(here):
    (image,) = pictures(1)
    crops = here / "out/crops/dog"
    crops.parent.mkdir(parents=True)
    save(here / "in", [image])
    save(crops, [])
    data = (here / "in/000.png").read_bytes()
    (crops / "000-1.png").write_bytes(data)
    network, sources = Bright(), find_sources(["in", "out/crops/dog"])
    plan = plan_files(sources, here / "out", ["crops"])
    with pytest.raises(SourceError, match="is a source"):
        predict_sources(
            sources,
            plan,
            network.run,
            network.metadata,
            Filters(),
            runtime="",
            told=print,
            failed=print,
            reading=Reading(),
        )
    assert (crops / "000-1.png").read_bytes() == data


@pytest.mark.slow
def test_memory_is_flat_over_ten_thousand_frames(here):
    write_video(here / "clip.mp4", 10_000, (32, 32))
    network, sources = Bright(32), find_sources(["clip.mp4"])
    plan = plan_files(sources, here / "out", ["overlay", "json", "jsonl", "coco", "csv"])
    process, memory = psutil.Process(), []

    def run(images):
        if len(network.batches) % 500 == 0:
            memory.append(process.memory_info().rss)
        return network.run(images)

    given = (sources, plan, run, network.metadata, Filters())
    failures = predict_sources(*given, runtime="a test", told=print, failed=print, reading=Reading())
    assert (failures, len(network.batches)) == (0, 10_000)
    assert len(lines()) == 10_000
    # After the first frames nothing that counts is added.
    assert max(memory[2:]) - memory[2] < 24 << 20


FULL = """
import resource, sys
from pathlib import Path
from segc.inference.filters import Filters
from segc.inference.frames import Reading
from segc.inference.jobs import predict_sources
from segc.inference.sources import find_sources
from segc.inference.writing import plan_files
from tests.inference.stand_in import Bright
network, sources = Bright(), find_sources(["in"])
plan = plan_files(sources, Path("out"), set(sys.argv[1:]))
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
given = (sources, plan, network.run, network.metadata, Filters())
try:
    predict_sources(*given, runtime="a test", told=print, failed=print, reading=Reading())
except OSError as error:
    print(f"ended: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no limits of file sizes there")
@pytest.mark.parametrize("kinds", [["json"], ["coco"], ["jsonl", "csv"]])
def test_a_full_disk_names_the_file_and_leaves_whole_lines_or_nothing(kinds, here):
    save(here / "in", list(pictures(1)) * 60)
    done = subprocess.run([sys.executable, "-c", FULL, *kinds], capture_output=True, text=True, check=True, env=paths())
    assert "ended: [Errno 27] File too large: 'out/" in done.stdout
    assert not leftovers(here)
    if "jsonl" in kinds:
        assert 0 < len(lines()) < 60
        assert (here / "out/predictions.jsonl").read_text().endswith("\n")
    else:
        assert not list((here / "out").iterdir())
