"""All SQL of the sync worker, one module per noun."""
