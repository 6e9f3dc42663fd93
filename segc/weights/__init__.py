"""Weights: the safetensors store, the safe reader of foreign checkpoints, and transfer by name."""
