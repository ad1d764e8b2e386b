"""The coordinated limiter: what all workers together may ask of a provider, and who waits for whom."""
