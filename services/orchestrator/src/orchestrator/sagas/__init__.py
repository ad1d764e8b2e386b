"""One file per saga: its definition, the model of its input, and the events that start it.

Adding or deleting a file adds or deletes the saga; `catalogue` finds it.
"""
