"""HTTP: problem details, bearer tokens, the server, and the outbound client."""
