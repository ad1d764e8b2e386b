"""Watches the outcomes of provider calls and tells every worker which routes to use."""
