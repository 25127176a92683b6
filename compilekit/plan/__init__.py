"""Planning: a recipe and the plugins' descriptions to a checked plan. Light."""
