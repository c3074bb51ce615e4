"""Metrics to lines, pages and pictures."""
