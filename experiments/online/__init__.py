"""What feedback teaches: a stream of queries, one outcome seen for each."""
