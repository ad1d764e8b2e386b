"""Which claim-check store the settings ask for."""

from __future__ import annotations

from chassis.claims.bucket import Bucket, BucketClaims
from chassis.claims.directory import DirectoryClaims
from chassis.claims.store import ClaimStore
from chassis.settings import ClaimSettings


def open_claims(settings: ClaimSettings) -> ClaimStore:
    """Return the store; connects to nothing before its first use."""
    if settings.claim_store == "directory":
        return DirectoryClaims(settings.claim_dir)
    bucket = Bucket(
        name=settings.claim_s3_bucket,
        region=settings.claim_s3_region,
        access_key=settings.claim_s3_access_key.get_secret_value(),
        secret_key=settings.claim_s3_secret_key.get_secret_value(),
        endpoint=settings.claim_s3_endpoint,
        allow_http=settings.claim_s3_allow_http,
    )
    return BucketClaims(bucket, timeout_s=settings.claim_s3_timeout_s)
