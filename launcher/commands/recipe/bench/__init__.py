"""`launcher bench`: the speed of each stage of a training on this machine."""
