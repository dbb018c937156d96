"""How weights and learning rate move."""
