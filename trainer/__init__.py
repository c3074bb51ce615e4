"""Cloze: raw text in, a trained encoder and a model that takes strings out."""
