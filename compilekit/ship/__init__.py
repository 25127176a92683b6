"""Shipping: moving bundles to where they are loaded."""
