"""Who a caller is: passwords, tokens, API keys; the same code in every service."""
