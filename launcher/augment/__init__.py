"""Augmentation of whole batches: parameters drawn on the CPU from keys, pixels moved where they are."""
