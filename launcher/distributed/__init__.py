"""This process among the others: devices, precision, collectives, signals, hangs."""
