"""The user's model: the handle on it, how it is loaded, its sample, its sizes."""
