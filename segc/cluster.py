"""Predicting on many machines: the same call over Ray Data, with the model open once an actor.

    import segc.cluster

    rows = segc.cluster.predict(["s3://bucket/a.jpg", …], "build/artifacts/onnx", actors=8)
    rows.write_json("s3://bucket/found")

Needs ``pip install 'segc[ray]'``. Ray does a lost actor's share again on another one.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Unpack

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Mapping

    import ray.data
    from numpy.typing import NDArray

    from segc.model import Asked


class Predictor:
    """What an actor is: a model that is open, for ``ray.data.Dataset.map_batches``.

    Args:
        source: what :func:`segc.load` opens, as the actor's machine names it.
        options: what :func:`segc.load` takes beside it.
    """

    def __init__(self, source: str, options: Mapping[str, Any]) -> None:
        from segc.api import load

        self._model = load(source, **options)

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Predict a batch.

        Args:
            batch: with ``path``, [n] names of image files or addresses; other columns come along.

        Returns:
            The batch with ``record``, [n] texts: the prediction as JSON, see ``segc.Prediction.to_json``, empty where
            there is none; and ``error``, [n] texts: why an image was not read, empty where it was.
        """
        import numpy as np

        records, errors = zip(*map(self._one, batch["path"]), strict=True)
        return {**batch, "record": np.array(records, object), "error": np.array(errors, object)}

    def _one(self, path: object) -> tuple[str, str]:
        from segc.diagnostics import SegcError

        try:
            found = self._model(str(path))
        except SegcError as error:
            # A picture that cannot be read costs its row alone; what is wrong with the model ends the job.
            if not error.diagnostics[0].code.startswith(("I", "F001")):
                raise
            return "", str(error)
        return json.dumps(found.to_json(), ensure_ascii=False, separators=(",", ":")), ""


def predict(
    paths: ray.data.Dataset | Iterable[str | os.PathLike[str]],
    source: str | os.PathLike[str],
    *,
    actors: int = 2,
    batch: int = 16,
    cpus: float = 1,
    gpus: float = 0,
    trusted: bool = False,
    device: str | None = None,
    threads: int = 0,
    **asked: Unpack[Asked],
) -> ray.data.Dataset:
    """Predict images on the machines of a Ray cluster, which is this machine where none was joined (``ray.init``).

    Nothing is computed before the rows are asked for. Their order is that of Ray Data, which need not be that of the
    images; every row has its ``path``.

    Args:
        paths: names of image files and addresses that every machine can read, or a data set with a column ``path``.
        source: what :func:`segc.load` opens, as every machine names it.
        actors: how many have the model open, each in a process of its own.
        batch: images that an actor is given at a time: what is done again when one is lost.
        cpus: processors that Ray keeps for an actor.
        gpus: likewise.
        trusted: as for :func:`segc.load`.
        device: likewise.
        threads: likewise.
        **asked: what counts as a detection, see ``segc.model.Asked``.

    Returns:
        A data set of ``path``, ``record`` and ``error``, see :class:`Predictor`.

    Raises:
        TypeError: where nothing is called as what is asked for.
        ValueError: where a value is of another kind, or out of its bounds.
    """
    import ray.data

    from segc.model import named

    rows = (
        paths if isinstance(paths, ray.data.Dataset) else ray.data.from_items([{"path": str(path)} for path in paths])
    )
    options = {"trusted": trusted, "device": device, "threads": threads, **named(asked)}
    return rows.map_batches(
        Predictor,
        fn_constructor_args=(str(source), options),
        batch_size=batch,
        compute=ray.data.ActorPoolStrategy(size=actors),
        num_cpus=cpus,
        num_gpus=gpus,
    )
