"""The signature tables of `[webhook]`, one model per scheme; `providers.signing` builds both ends of each.

Must never name a vendor: what two of them share is a scheme, what one alone does is its folder's `webhook.py`.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from providers.manifest.base import HeaderName, NumberedHeaderName, Place, Places, Pointer, Strict

TimestampUnit = Literal["s", "ms", "rfc3339"]
# What a template may name beside places such as {header:X-Id} and {body:/id}.
TEMPLATE_WORDS = frozenset({"body", "url", "url_decoded", "method", "timestamp", "secret", "crc32"})


class SignatureElements(Strict):
    """A header that is a list of `key=value`: the key of the signature (it may occur several times) and of the stamp.

    Other keys are ignored, so that a version that nobody checks cannot stand for one that is checked.
    """

    signature: str
    timestamp: str = ""
    separator: str = Field(default=",", min_length=1, max_length=2)


class Stamped(Strict):
    """What bounds a delivery's age: where its signed time is, its unit, the window in seconds both ways.

    Without `tolerance_s` a time may be signed, but nothing is refused for its age.
    """

    timestamp: Places | None = None
    timestamp_unit: TimestampUnit = "s"
    tolerance_s: int | None = Field(default=None, ge=1)


class HmacSignature(Stamped):
    """HMAC (or, as `digest`, a plain hash with the secret in it) over a template of parts.

    `template` is literal text with `{body}`, `{url}`, `{url_decoded}`, `{method}`, `{timestamp}`, `{crc32}` (of the
    body, decimal), for `digest` also `{secret}`, or places such as `{header:X-Id}` and `{body:/id}`; `{body:/id?}` may
    be absent and is empty then. The signature is in a header (several names: the first that is there; `X-Sig-#`:
    numbered ones), or in the body or query (`signature`); `items` names an array whose elements carry one each.
    """

    scheme: Literal["hmac", "digest"]
    header: NumberedHeaderName | tuple[HeaderName, ...] | None = None
    signature: Places | None = None
    items: Pointer | None = None
    algorithm: Literal["sha1", "sha256", "sha512"] = "sha256"
    encoding: Literal["hex", "base64"]
    key_encoding: Literal["utf8", "hex", "base64"] = "utf8"
    template: str = "{body}"
    prefix: str = ""
    elements: SignatureElements | None = None

    @model_validator(mode="after")
    def _parts_have_sources(self) -> Self:
        names = check_template(self.template)
        stamped = self.timestamp is not None or bool(self.elements and self.elements.timestamp)
        if (self.header is None) == (self.signature is None):
            raise ValueError("the signature is either in a header or at `signature`")
        if self.elements is not None and self.header is None:
            raise ValueError("elements are parts of a header")
        if self.items is not None and self.signature is None:
            raise ValueError("signatures of items are in the body, at `signature`")
        if self.timestamp is not None and self.elements is not None and self.elements.timestamp:
            raise ValueError("the timestamp is in the header's elements or at `timestamp`, not both")
        if ("timestamp" in names or self.tolerance_s is not None) and not stamped:
            raise ValueError("{timestamp} and tolerance_s need the place of the timestamp")
        if ("secret" in names) != (self.scheme == "digest"):
            raise ValueError("a digest has {secret} in its template, an hmac has not")
        _covers_the_timestamp(self, names)
        return self


def _covers_the_timestamp(signature: HmacSignature, names: set[str]) -> None:
    """Refuse a window over a time that anyone could change: it must be part of what is signed."""
    if signature.tolerance_s is None or "timestamp" in names:
        return
    in_body = signature.timestamp is not None and signature.timestamp.startswith("body:")
    if not (in_body and "body" in names):
        raise ValueError("tolerance_s bounds a time that the template does not cover")


class StandardWebhooksSignature(Strict):
    """Standard Webhooks: `id.timestamp.body`, HMAC-SHA256 (`v1`) and Ed25519 (`v1a`), several signatures per header.

    `prefixes` are the beginnings of the three header names; the first that occurs in a request counts.
    """

    scheme: Literal["standard_webhooks"]
    prefixes: tuple[HeaderName, ...] = Field(min_length=1)
    tolerance_s: int = Field(ge=1)


class UrlFormSignature(Strict):
    """HMAC over the URL and the sorted form fields, or over a URL that carries the SHA-256 of a non-form body.

    `settings_header` may name another algorithm than SHA-1; `body_hash_param` is the query parameter with the hash.
    """

    scheme: Literal["url_form"]
    header: HeaderName
    settings_header: HeaderName
    body_hash_param: str


class PublicKeySignature(Stamped):
    """ECDSA P-256 with SHA-256 (DER) or Ed25519 over a template; the secret is the sender's public key.

    An `ecdsa_p256` key is base64 SubjectPublicKeyInfo, an `ed25519` key its 32 bytes in hex or base64.
    """

    scheme: Literal["ecdsa_p256", "ed25519"]
    header: HeaderName
    encoding: Literal["hex", "base64"] = "base64"
    template: str = "{timestamp}{body}"

    @model_validator(mode="after")
    def _parts_have_sources(self) -> Self:
        names = check_template(self.template)
        if "body" not in names or ("timestamp" in names) != (self.timestamp is not None):
            raise ValueError("template needs {body}, and {timestamp} exactly when `timestamp` says where it is")
        if self.tolerance_s is not None and self.timestamp is None:
            raise ValueError("tolerance_s needs the place of the timestamp")
        return self


class Selected(Strict):
    """A word that a place holds, and what it stands for; any other word is refused."""

    place: Places
    values: dict[str, Literal["sha1", "sha256", "sha512"]] = Field(min_length=1)


class Certificate(Strict):
    """The certificate with the sender's public key: where its address stands, and the only addresses believed.

    `url` is a regular expression that the whole address must match. `name_suffix` is how the subject's common name must
    end; `chain` asks whoever fetches it to check it up to a known root. `example` is an address of that form,
    `root` a file of the folder with a root that browsers have dropped.
    """

    place: Places
    url: str = Field(pattern=r"^https://")
    example: str
    name_suffix: str = ""
    chain: bool = False
    root: str = Field(default="", pattern=r"^([a-z0-9_-]+\.pem)?$")

    @model_validator(mode="after")
    def _example_is_one(self) -> Self:
        if re.fullmatch(self.url, self.example) is None:
            raise ValueError("example does not match url")
        return self


class Lines(Strict):
    """A message of a name and a value on a line each: which fields of the body, by the value of another place.

    A name that ends in `?` is left out when the field is absent.
    """

    by: Place
    fields: dict[str, tuple[str, ...]] = Field(min_length=1)


class RsaSignature(Stamped):
    """RSA PKCS #1 v1.5 over a template or lines, with a certificate from a pinned host.

    The secret is the receiver's own identity at the sender, which makes a signature for somebody else worthless: it is
    `{secret}` in the template, or must equal what stands at `identity`.
    """

    scheme: Literal["rsa"]
    signature: Places
    hash: Selected
    certificate: Certificate
    template: str = ""
    lines: Lines | None = None
    identity: Place | None = None

    @model_validator(mode="after")
    def _one_message_for_one_receiver(self) -> Self:
        if bool(self.template) == (self.lines is not None):
            raise ValueError("the message is a template or lines")
        names = check_template(self.template)
        if ("secret" in names) == (self.identity is not None):
            raise ValueError("the secret is {secret} in the template, or equals what stands at `identity`")
        if ("timestamp" in names or self.tolerance_s is not None) and self.timestamp is None:
            raise ValueError("{timestamp} and tolerance_s need the place of the timestamp")
        return self


class FetchedKeys(Strict):
    """Keys that somebody has to fetch for the verifier, from one address only.

    `url` and the values of `json_body` may hold `{option:name}`, `{kid}` and `{secret}`. `pointer` leads to the keys
    in the answer: a JWK set (`jwks`), one JWK (`jwk`), or an object of PEM certificates by key id (`x509`).
    """

    url: str = Field(pattern=r"^https://")
    format: Literal["jwks", "jwk", "x509"]
    method: Literal["GET", "POST"] = "GET"
    json_body: dict[str, str] = Field(default_factory=dict)
    pointer: Pointer = ""

    @model_validator(mode="after")
    def _no_secret_in_addresses(self) -> Self:
        if "{secret}" in self.url:
            raise ValueError("addresses are logged: a secret goes into json_body")
        return self


class JwtSignature(Strict):
    """A JSON Web Token in a header or the body, of the algorithms listed and no other.

    `keys` says where its key comes from: the endpoint's secret, or fetched. `issuer` are the values of that claim;
    `{claim:tid}` in one stands for another claim. `audience` is what that claim equals: `url`, `secret` or
    `option:<name>` (the URL while it is empty); `claims` are further ones with the
    value they must have, `secret` standing for the endpoint's. `body_hash_claim` is the claim with the hexadecimal
    SHA-256 of the body; without it the token proves the sender, not the body. `tolerance_s` bounds the age of `iat`;
    `lifetime_s` says that `exp` must be there, and how long after `iat` it usually is.
    """

    scheme: Literal["jwt"]
    token: Literal["bearer"] | Places
    algorithms: tuple[Literal["HS256", "RS256", "ES256"], ...] = Field(min_length=1)
    keys: Literal["secret"] | FetchedKeys
    issuer: tuple[str, ...] = ()
    audience: str = ""
    claims: dict[str, str] = Field(default_factory=dict)
    body_hash_claim: str = ""
    tolerance_s: int | None = Field(default=None, ge=1)
    lifetime_s: int | None = Field(default=None, ge=1)

    @model_validator(mode="after")
    def _bounded_and_addressed(self) -> Self:
        if self.tolerance_s is None and self.lifetime_s is None:
            raise ValueError("a token needs a bound on its age: tolerance_s for iat, or lifetime_s for exp")
        if self.keys != "secret" and "HS256" in self.algorithms:
            raise ValueError("a fetched key is public, and HS256 needs a secret one")
        if self.audience not in {"", "url", "secret"} and re.fullmatch(r"option:\w+", self.audience) is None:
            raise ValueError("audience is url, secret or option:<name>")
        return self

    @property
    def names_secret(self) -> bool:
        """Tell whether the endpoint's secret takes part other than as a key."""
        return self.audience == "secret" or "secret" in self.claims.values()


class StaticTokenSignature(Strict):
    """A shared secret that every delivery shows: it proves who sent it, and nothing about the body or its age.

    Exactly one of `places` must have a value; `bearer` and `basic` are kinds of `Authorization` (the secret of `basic`
    is `user:password`). A `*` in a pointer asks for the token in every element.
    """

    scheme: Literal["static_token"]
    places: tuple[Literal["bearer", "basic"] | Places, ...] = Field(min_length=1)


class MtlsSignature(Strict):
    """The client certificate's identity as a trusted proxy writes it into the header that `header_option` names.

    Without that option nothing is accepted; the proxy must remove the header from what strangers send.
    """

    scheme: Literal["mtls"]
    header_option: str


class NoSignature(Strict):
    """Nothing proves the sender. Refused, unless the endpoint's option of this name is `yes`."""

    scheme: Literal["none"]
    accept_option: str


class CustomSignature(Strict):
    """The folder's `webhook.py` has a function `verifier(options)` for what no scheme can say."""

    scheme: Literal["custom"]


OneSignature = Annotated[
    HmacSignature
    | StandardWebhooksSignature
    | UrlFormSignature
    | PublicKeySignature
    | RsaSignature
    | JwtSignature
    | StaticTokenSignature
    | MtlsSignature
    | NoSignature
    | CustomSignature,
    Field(discriminator="scheme"),
]


class ChoiceSignature(Strict):
    """Several schemes of which the endpoint's option names one; nothing in a request can choose a weaker one."""

    scheme: Literal["choice"]
    option: str
    schemes: dict[str, OneSignature] = Field(min_length=2)


Signature = Annotated[
    HmacSignature
    | StandardWebhooksSignature
    | UrlFormSignature
    | PublicKeySignature
    | RsaSignature
    | JwtSignature
    | StaticTokenSignature
    | MtlsSignature
    | NoSignature
    | CustomSignature
    | ChoiceSignature,
    Field(discriminator="scheme"),
]


def check_template(template: str) -> set[str]:
    """Return the names in a template; raises `ValueError` for one that is neither a word of ours nor a place."""
    names = set(re.findall(r"\{([^{}]*)\}", template))
    for name in names - TEMPLATE_WORDS:
        if (
            re.fullmatch(r"(body:(/[^/|]+)+|form:[^|]+|header:[A-Za-z0-9-]+\??|query:[^|]+|option:\w+)(\|.+)?", name)
            is None
        ):
            raise ValueError(f"template does not know {{{name}}}")
    return names
