"""The simulated fleet: a server that answers for every LLM of a catalog."""
