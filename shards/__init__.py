"""Image folders and torchvision datasets to WebDataset tar shards, and back: pack, index, check, info."""
