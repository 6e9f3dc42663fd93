"""Emission: from trained weights to verified artifact folders, a worker process for everything heavy."""
