"""What the health monitor's tests share; pytest finds it by `pythonpath` in pyproject.toml."""
