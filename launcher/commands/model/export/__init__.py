"""`launcher export RUN`: a trained network in formats that other programs read."""
