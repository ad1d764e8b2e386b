"""Envelope encryption of secrets: a local keyring for all, and a KMS where it is asked for."""

from chassis.sealing.keyring import Keyring, SealError

__all__ = ["Keyring", "SealError"]
