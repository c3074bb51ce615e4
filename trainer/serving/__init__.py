"""Strings to answers: the exported model, its card, and reading it back."""
