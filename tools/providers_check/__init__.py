"""Checks of the provider folders' shape, one file per rule."""
