"""What int8 is calibrated on, and how."""

from typing import Literal

from pydantic import Field

from segc.schema import SpecModel

FEWEST = 8
"""Fewest images that tell what a network's values are."""


class Calibration(SpecModel):
    """Which images show an int8 artifact what the network's values are, and what follows from that."""

    split: Literal["train", "val"] = Field(
        "train", description="Split of the dataset that the images are drawn from. Accuracy is measured on val."
    )
    number: int = Field(
        64, ge=FEWEST, le=10_000, description="Images drawn; all there are where the split has fewer, 8 at least."
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="Another one draws other images.")
    method: Literal["min-max", "percentile", "mse"] = Field(
        "mse",
        description="The range of a tensor. min-max: all that was seen. percentile: all but the outermost of a hundred "
        "thousand. mse: that of the least squared error.",
    )
