"""Loading: from a bundle to a ready pipeline."""
