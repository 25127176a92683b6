"""What every room may use: words, progress, locks, staged folders, the environment. Light."""
