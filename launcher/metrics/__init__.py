"""Whole-number counts summed over processes, and the metrics that they give."""
