"""`launcher bench`: how fast each stage of a training is on this machine."""
