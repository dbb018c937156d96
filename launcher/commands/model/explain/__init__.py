"""`launcher explain RUN PATHS`: which parts of a picture speak for a class."""
