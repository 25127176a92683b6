"""Plugins: the hooks, how plugins are found, and how the host calls them. Light."""
