"""The build cache: parts and whole bundles, found again by what they were made of."""
