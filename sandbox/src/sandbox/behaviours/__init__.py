"""One file per provider whose API the sandbox plays; only files of registered providers are ever loaded."""
