"""The participant kit of sagas: one effect per effect key, whatever happens to commands, workers and answers.

A service brings a `Participant`, which knows how its effects are carried out; the kit keeps their states, fences,
leases and answers (sync-worker.md §4.5).
"""
