"""`launcher evaluate`: metrics, predictions and charts of a trained network on a split."""
