"""What connections are made of, put together once for the service, its tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, field
from uuid import UUID

from chassis.clock import Clock
from chassis.db.database import Database
from chassis.sealing import Keyring
from contracts.ids import uuid7
from sync_worker.connections.authorisation import CALLBACK_PATH, Authorisation
from sync_worker.connections.desk import ConnectionDesk
from sync_worker.connections.refresh import Refresher, Timing
from sync_worker.connections.token_endpoint import TokenEndpoint
from sync_worker.connections.tokens import Tokens
from sync_worker.connections.vault import Vault
from sync_worker.endpoints.desk import Endpoints


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a deployment stands: the address of its API as browsers see it, and the sandbox that plays providers.

    `timing` is other than the default in tests only.
    """

    public_api_url: str
    base_url_override: str = ""
    timing: Timing = field(default_factory=Timing)


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts; `tokens.run` belongs into the background, `close` into the drain."""

    vault: Vault
    endpoint: TokenEndpoint
    tokens: Tokens
    desk: ConnectionDesk
    authorisation: Authorisation
    surroundings: Surroundings

    @classmethod
    def build(
        cls,
        database: Database,
        keyring: Keyring,
        endpoints: Endpoints,
        clock: Clock,
        surroundings: Surroundings,
    ) -> Parts:
        """Put the parts together; each call makes a lease owner of its own."""
        vault = endpoints.vault
        endpoint = TokenEndpoint(clock, base_url_override=surroundings.base_url_override)
        owner: UUID = uuid7()
        chosen = surroundings.timing
        refresher = Refresher(database, vault, endpoint, clock, owner=str(owner), timing=chosen)
        tokens = Tokens(database, vault, refresher, clock, chosen)
        desk = ConnectionDesk(vault, endpoints, clock)
        authorisation = Authorisation(
            database,
            keyring,
            desk,
            tokens,
            endpoint=endpoint,
            clock=clock,
            redirect_uri=f"{surroundings.public_api_url.rstrip('/')}{CALLBACK_PATH}",
        )
        return cls(vault, endpoint, tokens, desk, authorisation, surroundings)

    async def close(self) -> None:
        """Wait for token calls in flight, then close their pool."""
        await self.tokens.close()
        await self.endpoint.close()
