"""`launcher evaluate`: figures, files and pictures of a trained network on a split."""
