"""`patchbay demo`: a day in the life of a business, told station by station, and proven at each."""

from patchbay.demo.day import play

__all__ = ["play"]
