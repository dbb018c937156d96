"""Image folders and torchvision datasets as WebDataset tar shards: pack, index, check, info."""
