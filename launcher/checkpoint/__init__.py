"""The state of a training on disk: complete or not there. `state` lists the files that `saver` writes."""
