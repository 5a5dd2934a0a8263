"""What is kept in Postgres, and the journals in front of it."""
