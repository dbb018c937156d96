"""`launcher tune`: the search for better values of a recipe."""
