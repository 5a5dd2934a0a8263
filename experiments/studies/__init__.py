"""Single questions about the method, each answered by one script."""
