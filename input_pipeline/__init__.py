"""Text to batches; batch n is a function of (prepared data, seed, n)."""
