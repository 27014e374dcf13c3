"""The whole system on one machine: PostgreSQL, predictor and queue-proxy, started together and ended together."""
