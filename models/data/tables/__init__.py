"""Tables as their files hold them: CSV, JSON Lines and Parquet, read within limits."""
