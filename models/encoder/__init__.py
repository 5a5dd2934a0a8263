"""Query text → unit embedding."""
