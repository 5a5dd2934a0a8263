"""Windows of decisions, the signals of drift in them, alerts."""
