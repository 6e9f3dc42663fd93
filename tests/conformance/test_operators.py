"""Every operator of the graph, through every target that can run here, means what it means in PyTorch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from segc.arrays import load_arrays, save_arrays
from segc.graph.ops import OPERATORS
from segc.targets.registry import targets

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from operators import RECIPES, build_recipe  # noqa: E402
from pages import DOCS, PAGES  # noqa: E402
from refusals import REFUSALS  # noqa: E402
from run import BESIDE, OBSERVATIONS, calibrated, observed, reference  # noqa: E402

ROUNDING = {"edgetpu": 0.04}
"""By target: by how much of a result's range it may be off. Eight bits have 256 steps, and several add up."""


@cache
def expected() -> dict[str, np.ndarray]:
    return reference()


class Results:
    """What a target made of all recipes, each target asked once."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._done: dict[str, tuple[dict[str, np.ndarray], dict[str, str]]] = {}

    def of(self, target: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
        if target not in self._done:
            folder = self._root / target
            environment = {**os.environ, "PYTHONPATH": str(HERE.parents[1])}
            if calibrated(target):
                folder.mkdir(parents=True)
                save_arrays(folder / OBSERVATIONS, observed())
            command = [sys.executable, str(HERE / "run.py"), target, str(folder)]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-3000:]
            refusals = json.loads((folder / "refusals.json").read_text())
            self._done[target] = load_arrays(folder / "outputs.safetensors"), refusals
        return self._done[target]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return Results(tmp_path_factory.mktemp("conformance"))


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("target", [*targets(), *BESIDE])
def test_an_operator_means_what_it_means_in_pytorch_or_is_refused(target: str, recipe: str, results: Results) -> None:
    if (missing := targets()[BESIDE.get(target, (target,))[0]].run_environment()) and os.environ.get("CI") != "true":
        pytest.skip(missing)
    outputs, refusals = results.of(target)
    wanted = REFUSALS.get(target, {}).get(recipe)
    if wanted is not None:
        assert wanted in refusals[recipe]
        return
    assert recipe not in refusals, refusals[recipe]
    assert outputs[recipe].shape == expected()[recipe].shape
    rounding = ROUNDING.get(target, 0.0) * float(np.ptp(expected()[recipe]))
    np.testing.assert_allclose(outputs[recipe], expected()[recipe], rtol=1e-5, atol=1e-5 + rounding)


def test_every_operator_has_a_recipe_but_those_that_only_passes_put_in() -> None:
    shown = {node.op for name in RECIPES for node in build_recipe(name).nodes}
    assert set(OPERATORS) - shown == {"cast", "fake_quantize"}


@pytest.mark.parametrize("page", PAGES)
def test_a_generated_page_of_the_documentation_is_the_present_one(page: str) -> None:
    assert (DOCS / page).read_text(encoding="utf-8") == PAGES[page]()


def test_refusals_name_recipes_and_targets_that_there_are() -> None:
    assert set(REFUSALS) <= {*targets(), *BESIDE}
    for recipes in REFUSALS.values():
        assert set(recipes) <= set(RECIPES)
