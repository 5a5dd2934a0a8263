"""Chooses whom to ask, with the release and the policy state that serve now."""
