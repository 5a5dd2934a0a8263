"""What a service process keeps: decisions, answers, votes, releases."""
