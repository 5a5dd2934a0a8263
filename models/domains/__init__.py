"""Tags and domains of queries."""
