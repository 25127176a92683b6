"""A recipe's speed beside the model as loaded, or beside another recipe, measured in turn."""
