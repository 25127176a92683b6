"""Studies: commands that look into a recipe on a model."""
