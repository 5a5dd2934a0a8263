"""What feedback teaches: the policy state, its voters, off-policy evaluation."""
