"""Measurements; each prints what it saw, nothing here is a test."""
