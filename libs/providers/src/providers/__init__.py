"""Everything that Patchbay knows about third-party providers, one folder each; adding one edits nothing else.

Sans-IO: this package verifies bytes, reads payloads and builds requests. It imports contracts, pydantic, cryptography
and the standard library; it must never open a socket, a database or a file outside its own package.
"""
