"""One effect per effect key at a provider, whatever happens to commands, workers and answers."""
