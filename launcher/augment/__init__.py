"""Augmentation of whole batches: parameters drawn on the CPU from keys, pixels moved on the device that holds them.

Pixels are torchvision's, tested operation by operation; parameters are drawn per image, where torchvision's batch
transforms draw once per batch.
"""
