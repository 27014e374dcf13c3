"""What every HTTP service of ours has: a listener, a request's envelope, bodies within limits."""
