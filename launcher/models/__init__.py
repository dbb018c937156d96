"""Networks: a backbone with a new head, and what of it is frozen."""
