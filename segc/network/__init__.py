"""The graph as a PyTorch module."""
