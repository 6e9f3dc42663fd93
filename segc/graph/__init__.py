"""The network as a small graph of our own, free of every framework."""
