"""The largest batch that fits: each trial in a process of its own, which may well be killed."""
