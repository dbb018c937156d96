"""YAML text -> typed recipe -> plan of whole numbers. Nothing here imports torch."""
