"""Distributed multi-GPU training of image classifiers from a YAML recipe."""

__version__ = "0.1.0"
