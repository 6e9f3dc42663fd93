"""Targets: what a trained network becomes; one file each, listed in `registry`, under the contract of `base`."""
