"""Fine-tunes the encoder with the domains, exports and checks it."""
