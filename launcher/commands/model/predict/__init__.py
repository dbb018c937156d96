"""`launcher predict`: what a trained network, or one of torchvision's, says of pictures."""
