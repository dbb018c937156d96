"""`launcher probe`: logistic regression on a frozen backbone's features, saved as the network's head."""
