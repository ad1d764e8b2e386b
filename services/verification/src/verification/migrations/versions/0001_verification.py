"""Attestations, attempts and the audit log.

Revision ID: 0001
"""

from __future__ import annotations

from alembic import op

from chassis.db import baseline

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the shared tables, `verification`, `attempts` and the append-only `audit_log`."""
    baseline.upgrade()
    op.execute(
        """CREATE TABLE verification (
            subject_id uuid NOT NULL, tenant text NOT NULL, customer_ref bytea NOT NULL, verification_id uuid NOT NULL,
            epoch bigint NOT NULL, status text NOT NULL, outcome text NOT NULL, thresholds_passed smallint[] NOT NULL,
            assurance text NOT NULL, provider text NOT NULL, rule_version text NOT NULL,
            verified_at timestamptz NOT NULL, expires_at timestamptz, identity_tag bytea, evidence_ref text NOT NULL,
            CONSTRAINT pk_verification PRIMARY KEY (subject_id),
            CONSTRAINT uq_verification_tenant_customer_ref UNIQUE (tenant, customer_ref),
            CONSTRAINT ck_verification_status CHECK (status IN ('verified', 'refused', 'revoked'))
        )"""
    )
    op.execute(
        """CREATE TABLE attempts (
            tenant text NOT NULL, kind text NOT NULL, tag bytea NOT NULL, used integer NOT NULL,
            resets_at timestamptz NOT NULL,
            CONSTRAINT pk_attempts PRIMARY KEY (tenant, kind, tag),
            CONSTRAINT ck_attempts_kind CHECK (kind IN ('customer', 'identity'))
        )"""
    )
    op.execute("CREATE INDEX ix_attempts_resets_at ON attempts (resets_at)")
    op.execute(
        """CREATE TABLE audit_log (
            index bigint NOT NULL, audit_id uuid NOT NULL, tenant text NOT NULL, service text NOT NULL,
            actor text NOT NULL, action text NOT NULL, target text NOT NULL, at timestamptz NOT NULL,
            detail jsonb NOT NULL, prev_hash bytea NOT NULL, hash bytea NOT NULL,
            CONSTRAINT pk_audit_log PRIMARY KEY (index),
            CONSTRAINT uq_audit_log_audit_id UNIQUE (audit_id)
        )"""
    )
    op.execute("CREATE INDEX ix_audit_log_tenant_index ON audit_log (tenant, index)")
    op.execute("CREATE INDEX ix_audit_log_action_index ON audit_log (action, index)")
    # The role owns the table, so revoking rights from it would not bind it; a trigger does until somebody drops it,
    # which the hash chain does not need in order to show a change.
    op.execute(
        """CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS $$
           BEGIN RAISE EXCEPTION 'audit_log is append-only' USING ERRCODE = 'restrict_violation'; END $$"""
    )
    op.execute(
        """CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
           FOR EACH STATEMENT EXECUTE FUNCTION refuse_audit_change()"""
    )
