"""A release beside the champion: measured, judged, noted."""
