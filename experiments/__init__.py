"""Studies of the method: simulations, and what was tried on real evaluation sets."""
