"""Networks, their frozen part, losses and optimizers."""
