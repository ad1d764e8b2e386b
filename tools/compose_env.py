"""Make the keys, passwords and env files that docker-compose.yml reads from .run/compose; never prints a secret.

Idempotent: what exists is kept, because the database's volume was made with these passwords.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Final

from tools.dev.identity import Issuer, ensure_keyring, write_private
from tools.dev.state import env_lines
from tools.dev.table import INFRASTRUCTURE_PORTS, SERVICES

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDER: Final = ROOT / ".run" / "compose"


def secret_names(*, database: bool) -> set[str]:
    """Return the settings that reach a service through its env file, because their values hold a password."""
    return {"PATCHBAY_REDIS_URL"} | ({"PATCHBAY_DATABASE_URL"} if database else set())


def file_names() -> set[str]:
    """Return every file and folder below .run/compose that the compose file may name."""
    servers = {"postgres.env", "redis.env", "grafana.env", "databases.sql", "compose.env", "keys", "claims"}
    return servers | {f"{spec.name}.env" for spec in SERVICES}


def _passwords(folder: Path) -> dict[str, str]:
    file = folder / "passwords.json"
    known: dict[str, str] = json.loads(file.read_text()) if file.exists() else {}
    wanted = ["postgres", "redis", "grafana", *(spec.database for spec in SERVICES if spec.database)]
    known |= {name: secrets.token_hex(24) for name in wanted if name not in known}
    write_private(file, json.dumps(known, indent=2) + "\n")
    return known


def _databases_sql(passwords: dict[str, str]) -> str:
    """Return what PostgreSQL's image runs on its first start: a role and a database each, closed to the others."""
    statements = []
    for spec in SERVICES:
        if spec.database:
            name = spec.database
            statements += [
                f"CREATE ROLE {name} LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE PASSWORD '{passwords[name]}';",
                f"CREATE DATABASE {name} OWNER {name};",
                f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;",
            ]
    return "\n".join(statements) + "\n"


def write(folder: Path) -> None:
    """Write every file into `folder`, which only its owner can enter."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    passwords = _passwords(folder)
    issuer = Issuer(folder / "issuer")
    issuer.ensure()
    (folder / "keys").mkdir(exist_ok=True)
    shutil.copyfile(issuer.jwks, folder / "keys" / "jwks.json")
    ensure_keyring(folder / "keys" / "keyring.json")
    (folder / "claims").mkdir(exist_ok=True)
    for spec in SERVICES:
        values = {"PATCHBAY_REDIS_URL": f"redis://:{passwords['redis']}@redis:6379/0"}
        if spec.database:
            name = spec.database
            values["PATCHBAY_DATABASE_URL"] = f"postgresql://{name}:{passwords[name]}@postgres:5432/{name}"
        write_private(folder / f"{spec.name}.env", env_lines(values))
    write_private(folder / "postgres.env", env_lines({"POSTGRES_PASSWORD": passwords["postgres"]}))
    write_private(folder / "redis.env", env_lines({"REDISCLI_AUTH": passwords["redis"]}))
    write_private(folder / "grafana.env", env_lines({"GF_SECURITY_ADMIN_PASSWORD": passwords["grafana"]}))
    # Readable by the image's own user once it is mounted; on this side the folder keeps everybody else out.
    (folder / "databases.sql").write_text(_databases_sql(passwords))
    (folder / "databases.sql").chmod(0o644)
    identity = {"PATCHBAY_UID": str(os.getuid()), "PATCHBAY_GID": str(os.getgid())}
    write_private(folder / "compose.env", env_lines(identity))
    urls = {spec.url_variable: f"http://127.0.0.1:{spec.port}" for spec in SERVICES}
    bootstrap = f"127.0.0.1:{INFRASTRUCTURE_PORTS['kafka']}"
    write_private(folder / "env", env_lines(urls | {"KAFKA_BOOTSTRAP": bootstrap, "PATCHBAY_TOKEN": issuer.token()}))


def main() -> int:
    """Entry point of `python -m tools.compose_env`."""
    write(FOLDER)
    print(f"wrote {FOLDER.relative_to(ROOT)}; `. .run/compose/env` sets the URLs and an operator's token")
    return 0


if __name__ == "__main__":
    sys.exit(main())
