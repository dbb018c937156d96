"""Every other command: those of a recipe, of a trained model, of run folders, and those that start trainings."""
