"""The release: what is in it, how it is built, checked and judged."""
