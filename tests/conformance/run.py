"""Run all recipes through one target: a program, since frameworks do not bear each other in one process.

    python run.py TARGET FOLDER

writes FOLDER/outputs.safetensors (recipe to result, channels first) and FOLDER/refusals.json (recipe to message). For a
target that computes in int8, FOLDER/observations.safetensors has what the recipes' feature maps hold.
"""

import json
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from types import ModuleType

import numpy as np
from operators import RECIPES, SIZE, build_recipe

from segc.arrays import load_arrays, save_arrays
from segc.diagnostics import SegcError
from segc.graph.passes import fold_batch_norm
from segc.graph.passes.ranges import read_observations
from segc.inference.metadata import Metadata
from segc.inference.model import Model
from segc.inference.postprocess import model_input
from segc.network.initialise import initial_weights
from segc.targets.contract import CALIBRATED, EmitRequest
from segc.targets.registry import targets

BESIDE: dict[str, tuple[str, dict[str, object]]] = {"keras": ("saved_model", {"keras": True})}
"""Further models that a target writes beside its own: the target, and the options that ask for them."""

OBSERVATIONS = "observations.safetensors"

METADATA = Metadata(("a",), SIZE, strides=(1,))
"""Of all recipes: no size is a multiple of anything. Their outputs are none of a model, so runtimes do not ask for
them; see ``open_any``."""


def images() -> np.ndarray:
    """What all graphs are run on: [1, 3, 11, 7] in 0..1."""
    return np.random.default_rng(1).random((1, 3, *SIZE), np.float32)


def open_any(opener: ModuleType, path: Path) -> Model:
    """A model of any outputs: what a runtime asks of the form of a model of segc is left out."""
    for name, module in list(sys.modules.items()):
        if name.startswith("segc.targets.") and hasattr(module, "check_form"):
            module.check_form = lambda *_: None
    return opener.open_model(path, 1)


def calibrated(name: str) -> bool:
    """Whether a target computes in int8 unasked."""
    target = targets()[BESIDE.get(name, (name,))[0]]
    return target.precision(target.default_options()) in CALIBRATED


def observed() -> dict[str, np.ndarray]:
    """What the feature maps of every recipe hold, by recipe and tensor."""
    from segc.network.observing import observe

    found = {}
    for recipe in RECIPES:
        graph = build_recipe(recipe)
        graph = replace(graph, metadata={**graph.metadata, "size": SIZE})
        seen = observe(graph, initial_weights(graph.parameters, 0), images())
        found.update({f"{recipe}/{name}": one.to_array() for name, one in seen.items()})
    return found


def main() -> None:
    """Emit and run every recipe."""
    name, folder = sys.argv[1], Path(sys.argv[2])
    format_, given = BESIDE.get(name, (name, {}))
    target = targets()[format_]
    options = target.options.model_validate({"format": format_, **given})
    metadata = replace(METADATA, **target.settings(options))
    outputs, refusals = {}, {}
    seen = load_arrays(folder / OBSERVATIONS) if calibrated(name) else {}
    for number, recipe in enumerate(RECIPES):
        graph = build_recipe(recipe)
        place = folder / str(number)
        place.mkdir(parents=True)
        weights = initial_weights(graph.parameters, 0)
        own = {name.removeprefix(f"{recipe}/"): array for name, array in seen.items() if name.startswith(f"{recipe}/")}
        observations = read_observations(own) if seen else None
        request = EmitRequest(graph, weights, options, metadata, "model", place, observations=observations)
        try:
            emitted = target.make(request)
        except SegcError as error:
            refusals[recipe] = error.diagnostics[0].message
            continue
        path = place / emitted.model
        opener = target.stand_in(path) or target.runtime
        if name in BESIDE:
            path, opener = place / emitted.beside[0][0], emitted.beside[0][1]
        model = open_any(import_module(opener), path)
        (result,) = model.raw(model_input(images(), metadata)).values()
        if metadata.channels == "last" and result.ndim == 4:
            result = result.transpose(0, 3, 1, 2)
        outputs[recipe] = np.asarray(result, np.float32)
    save_arrays(folder / "outputs.safetensors", outputs)
    (folder / "refusals.json").write_text(json.dumps(refusals))


def reference() -> dict[str, np.ndarray]:
    """What PyTorch makes of every recipe, batch norms folded as targets do."""
    from segc.network.session import TorchSession

    results = {}
    for recipe in RECIPES:
        graph = build_recipe(recipe)
        folded = fold_batch_norm(graph, initial_weights(graph.parameters, 0))
        (results[recipe],) = TorchSession(*folded, METADATA).run(images()).values()
    return results


if __name__ == "__main__":
    main()
