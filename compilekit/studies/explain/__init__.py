"""Explaining a recipe: what its steps really did to a model, and what they did not."""
