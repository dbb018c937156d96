"""Hangs and crashes in words: every process says where it is, on a channel that the training does not use."""
