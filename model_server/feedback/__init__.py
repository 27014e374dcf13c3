"""The feedback service, beside the queue-proxy: accounts, logins, and what users say of predictions."""
