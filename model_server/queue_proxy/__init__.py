"""The one door: requests pass through or are queued, and nothing accepted is lost."""
