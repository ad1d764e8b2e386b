"""Accounts of tenants at providers, and their credentials."""
