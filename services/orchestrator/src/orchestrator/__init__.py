"""Runs business operations that span several providers as sagas."""
