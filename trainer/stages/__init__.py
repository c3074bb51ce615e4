"""Training a model from its first step to its last, and what it becomes."""
