"""Asks upstream LLMs and passes their answers on."""
