"""`launcher export RUN`: a trained network in the forms that other programs read."""
