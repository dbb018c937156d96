"""What a run says: journal (the truth), console, W&B, a file per rank. `off` is an object that does nothing."""
