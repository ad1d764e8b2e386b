"""The way of every call to a provider."""
