"""`launcher predict`: classes and probabilities of any images."""
