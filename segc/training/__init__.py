"""From a spec and images to trained weights."""
