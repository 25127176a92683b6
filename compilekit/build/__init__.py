"""Building: the run of a plan in which exporting steps compile ahead of time."""
