"""Bisecting a recipe: which step, which component, which block is at fault."""
