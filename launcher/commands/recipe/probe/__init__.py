"""`launcher probe`: logistic regression on what a frozen backbone gives."""
