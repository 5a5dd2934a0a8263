"""Evaluation sets: read, checked, written."""
