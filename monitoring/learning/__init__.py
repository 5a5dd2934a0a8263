"""Learns from logged feedback."""
