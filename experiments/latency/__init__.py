"""What latency costs: the router under traffic, simulated and live."""
