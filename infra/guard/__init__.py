"""The login in front of the local stack's pages."""
