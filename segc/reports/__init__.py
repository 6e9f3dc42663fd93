"""Pages that show how a training went: plots as inline SVG, pictures as data URIs, one file without a network."""
