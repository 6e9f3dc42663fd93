"""How fast, how large and how accurate what a project has come to is here: artifacts and weights on the same images."""
