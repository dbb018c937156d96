"""Optimizers, and learning rates over time."""
