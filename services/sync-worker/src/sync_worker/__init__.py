"""Keeps canonical records in step with the providers' and makes every call to a provider."""
