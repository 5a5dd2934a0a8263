"""The gate: whether a release may take the champion's place, figure by figure."""
