"""The one door: synchronous requests pass through, asynchronous ones are queued, dispatched and delivered."""
