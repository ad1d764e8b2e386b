"""The franchise tree: network, franchisee, location. Who is below whom decides whose deliveries an endpoint may route.

Must never let a change of the tree turn a route that exists into one to somebody else's tenant.
"""

from __future__ import annotations

from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from chassis.clock import Clock
from chassis.db.database import UnitOfWork
from contracts.errors import Invalid, Terminal
from contracts.events.base import Slug
from contracts.events.sync import RateLimit
from sync_worker.audit import Audit
from sync_worker.endpoints.configuration import Limits, check_rate
from sync_worker.endpoints.desk import Endpoints
from sync_worker.models import Tenant
from sync_worker.repository import endpoints, tenants

# Network, region, franchisee, area, location, and one to spare; every look-up of a path stays short.
MAX_DEPTH: Final = 6

_STRICT: Final = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class TenantLimits(BaseModel):
    """What all endpoints of a tenant may receive together, per gateway process."""

    model_config = _STRICT

    deliveries_per_s: float = Field(gt=0)
    burst: int = Field(ge=1)


class TenantBody(BaseModel):
    """Body of `PUT /v1/tenants/{slug}`: the whole tenant; without `parent` it is a root."""

    model_config = _STRICT

    name: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]+$")
    parent: Slug | None = None
    limits: TenantLimits | None = None


class TenantTree:
    """Changes of the tree, in the caller's transaction."""

    def __init__(self, desk: Endpoints, clock: Clock, limits: Limits) -> None:
        self._desk = desk
        self._clock = clock
        self._audit = Audit(clock)
        self._limits = limits

    async def put(self, uow: UnitOfWork, known: Tenant | None, slug: str, body: TenantBody, actor: str) -> Tenant:
        """Make a tenant what `body` says and return it; its endpoints get its new limit within a second.

        The tree is locked by the caller. Raises `Invalid` that names the field (`unknown_tenant`, `cycle`, `too_deep`,
        `over_limit`), and `Terminal` (`tenant_in_use`) when an endpoint routes to it along the old way.
        """
        if body.limits is not None:
            rate = RateLimit(per_s=body.limits.deliveries_per_s, burst=body.limits.burst)
            check_rate("limits", rate, self._limits)
        await self._check_place(uow, known, slug, body.parent)
        limits = body.limits.model_dump() if body.limits else None
        new = Tenant(slug=slug, parent=body.parent, name=body.name, limits=limits, version=1)
        if known is not None:
            if (known.parent, known.name, known.limits) == (new.parent, new.name, new.limits):
                return known
            new.version = known.version + 1
        await tenants.save(uow.connection, new)
        if known is not None and known.limits != limits:
            # They are published in batches by the republisher: a network may have thousands of endpoints.
            await endpoints.mark_tenant(uow.connection, slug, self._clock.now())
            uow.after_commit(self._desk.wake)
        action = "tenant.declared" if known is None else "tenant.changed"
        self._audit.record(uow, actor, action, tenant=slug, target=f"tenant/{slug}", parent=body.parent or "")
        return new

    async def _check_place(self, uow: UnitOfWork, known: Tenant | None, slug: str, parent: str | None) -> None:
        above = await tenants.path(uow.connection, parent) if parent is not None else []
        if parent is not None and not above and parent != slug:
            raise Invalid("unknown_tenant", "there is no such tenant; declare it first", field="parent")
        if slug in above or parent == slug:
            raise Invalid("cycle", "a tenant cannot be below itself", field="parent")
        below = await tenants.subtree(uow.connection, slug)
        if len(above) + max(below.values(), default=1) > MAX_DEPTH:
            raise Invalid("too_deep", f"the tree has at most {MAX_DEPTH} levels", field="parent")
        if known is not None and known.parent != parent:
            routing = await tenants.routed_from_elsewhere(uow.connection, below, [*below, *above])
            if routing is not None:
                detail = f"endpoint {routing} routes deliveries here from above; change its tenant_routes first"
                raise Terminal("tenant_in_use", detail)
