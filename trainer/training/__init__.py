"""Logits to weights: strategies, the step, the loop, checkpoints."""
