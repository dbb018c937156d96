"""From shards to batches on the device: order, read, decode, load."""
