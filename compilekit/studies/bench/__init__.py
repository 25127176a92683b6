"""Latency and throughput of a recipe's result: medians of several runs, warm-up told apart."""
