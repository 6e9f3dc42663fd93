"""What is said of a benchmark's measurements follows from them, and from nothing else."""

from __future__ import annotations

import csv
from dataclasses import replace
from typing import Any

import pytest

from segc.benchmark.rows import Benchmark, Row, Times, compare, measured
from segc.benchmark.tasks import sampled
from segc.reports.bench import COLUMNS, bench_page, cells


def one_round(factor: float, load: float = 1.0) -> dict[str, Any]:
    times = {"pre": [1.0, 1.0], "inference": [10.0 * factor, 12.0 * factor], "post": [2.0, 4.0]}
    about = {"runtime": "onnxruntime on the CPU", "precision": "fp32", "size": [64, 96]}
    return {"load": load, "memory": 100_000_000, **times, **about}


def row(name: str, *factors: float, **changes: Any) -> Row:
    return replace(Row(name, "onnx", bytes=1_000_000, **measured([one_round(f) for f in factors])), **changes)


def bench(*rows: Row, sample: int = 8) -> Benchmark:
    machine = {"processor": "a < b", "processors": "2"}
    return Benchmark("shapes", machine, {"seed": 0, "rounds": 2}, (0.5, 1.0), {"onnxruntime": "1"}, rows, sample)


def test_a_row_has_medians_over_all_rounds_and_the_range_of_their_own() -> None:
    found = row("onnx", 1.0, 2.0)
    assert found.inference == Times(16.0, 24.0, pytest.approx((22 - 11) / 16.5))
    assert found.total is not None
    assert found.total.median == pytest.approx((13 + 17 + 23 + 29) / 4, abs=0.5)
    assert found.images_per_second == pytest.approx(1000 / ((13 + 17 + 23 + 29) / 4))
    assert (found.load, found.load_spread, found.memory, found.rounds) == (1.0, 0.0, 100_000_000, 2)
    assert cells(found)[COLUMNS.index("inference")] == "16.0"


def test_a_smaller_precision_that_is_not_faster_is_named_and_one_that_is_faster_is_not() -> None:
    full = row("onnx", 1.0, 1.0)
    slow, fast = (row(f"onnx-{what}", f, f, precision="fp16") for what, f in (("slow", 1.1), ("fast", 0.5)))
    elsewhere = row("tflite-fp16", 3.0, 3.0, precision="fp16", target="tflite")
    doubtful = row("onnx-maybe", 0.8, 1.0, precision="fp16")
    said = [text for text in bench(full, slow, fast, elsewhere, doubtful).remarks() if "faster" in text]
    assert said == [
        "onnx-slow (fp16) is not faster than onnx here: 12.1 ms against 11.0, 1.10 times",
        "onnx-maybe (fp16) may not be faster than onnx here: 9.8 ms against 11.0, 0.89 times, within 22%",
    ]


def test_how_steady_it_was_is_said_with_the_load() -> None:
    assert bench(row("onnx", 1.0, 1.01)).steadiness().startswith("steady: ")
    assert bench(row("onnx", 1.0)).steadiness().startswith("one round, so that nothing tells how steady it was, load ")
    assert cells(row("onnx", 1.0))[COLUMNS.index("spread")] == ""
    said = bench(row("onnx", 1.0, 1.5)).steadiness()
    assert (
        said == "unsteady: inference of the rounds differs by up to 40%, load 0.5 before and 1.0 after on 2 processors"
    )


def test_only_changes_beyond_the_spread_are_told() -> None:
    before, after = bench(row("onnx", 1.0, 1.1, mask_map=0.5)), bench(row("onnx", 1.05, 1.1, mask_map=0.5))
    assert compare(before.to_json(), after.to_json()) == []
    slower = bench(row("onnx", 2.0, 2.0, mask_map=0.49, bytes=2_000_000), row("ncnn", 1.0, 1.0))
    assert compare(before.to_json(), slower.to_json()) == [
        "ncnn: new",
        "onnx: inference 11.50 -> 22.00 ms (+91%, beyond 10%)",
        "onnx: size 1.00 -> 2.00 MB (+100%, beyond 2%)",
        "onnx: mask mAP 0.5000 -> 0.4900",
    ]
    fewer = replace(bench(row("onnx", 1.0, 1.1, mask_map=0.1)), sample=5).to_json()
    assert compare({**before.to_json(), "sample": 7}, fewer) == [
        "mAP was measured on 7 images, is on 5: it cannot be compared"
    ]
    other = replace(bench(row("onnx", 1.0, 1.1, problem="T006: gone")), machine={"processor": "c", "processors": "2"})
    assert compare(before.to_json(), other.to_json()) == ["processor was a < b, is c", "onnx: fails now: T006: gone"]


def test_the_csv_and_the_page_have_every_row_with_the_reason_of_those_that_failed() -> None:
    found = bench(row("onnx", 1.0, 1.1, mask_map=0.5, box_map=0.75), Row("<b>", "onnx", problem="T006: a & b"))
    lines = list(csv.DictReader(found.to_csv().splitlines()))
    assert [(line["name"], line["size"], line["problem"]) for line in lines] == [
        ("onnx", "64x96", ""),
        ("<b>", "", "T006: a & b"),
    ]
    assert float(lines[0]["inference_median"]) == pytest.approx(11.5)
    page = bench_page(found)
    assert "T006: a &amp; b" in page
    assert "&lt;b&gt;" in page
    assert "<b>" not in page
    assert page.count("<svg") == 2
    assert bench_page(bench(row("onnx", 1.0), sample=0)).count("<svg") == 0


def test_a_sample_is_the_same_for_its_seed_and_in_order() -> None:
    images: Any = list(range(100))
    assert sampled(images, 10, 3) == sampled(images, 10, 3) == sorted(sampled(images, 10, 3))
    assert sampled(images, 10, 3) != sampled(images, 10, 4)
    assert sampled(images, 0, 3) == sampled(images, 200, 3) == images
