"""The spec: what a user asks for, as typed and frozen models."""
