"""What the sync worker's tests share; pytest finds it by `pythonpath` in pyproject.toml."""
