"""Looks for drift in logged decisions; reports and alerts."""
