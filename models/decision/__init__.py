"""Which candidate answers: score, choice, exploration, waiting."""
