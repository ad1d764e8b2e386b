"""Checks ages without keeping birth dates, and sequences everybody's audit events into a tamper-evident log."""
