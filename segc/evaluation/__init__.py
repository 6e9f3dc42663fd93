"""How good predictions are, by the COCO protocol."""
