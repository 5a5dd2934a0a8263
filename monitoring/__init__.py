"""What is kept of what happened, and what is seen in it."""
