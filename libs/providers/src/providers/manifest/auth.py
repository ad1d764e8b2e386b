"""The ways to authenticate at a provider's API, `[api.auth.<method>]`: which secrets they take, and where these go.

Texts may hold `{account_ref}`, `{option.<name>}` and what their field says; see `providers/templates.py`. Must never
hold a secret itself, nor a lifetime that a vendor does not publish.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from providers.manifest.base import HeaderName, Pointer, Strict
from providers.templates import names_in

# What a flow or a token call obtains. A manifest must not ask for it as a secret of the OAuth method.
ACCESS_TOKEN: Final = "access_token"  # noqa: S105 (a name)

_HOST = r"(\{option\.[a-z0-9_]+\}|[A-Za-z0-9.-])+"
# The host may hold an option (`https://{option.shop}.myshopify.com/…`), which its pattern has to keep a plain label.
OAuthUrl = Annotated[str, StringConstraints(pattern=rf"^https://{_HOST}/[^?#\s]*$")]
MethodName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class BearerAuth(Strict):
    """`Authorization: Bearer <secret>`."""

    kind: Literal["bearer"]
    secret: str

    def secret_names(self) -> tuple[str, ...]:
        """Return the secrets that a connection of this method takes."""
        return (self.secret,)

    def texts(self) -> tuple[str, ...]:
        """Return the templates, for the options that they name."""
        return ()


class BasicAuth(Strict):
    """HTTP basic, also for app passwords. `{secret}` may stand in both parts."""

    kind: Literal["basic"]
    secret: str
    user: str = "{account_ref}"
    password: str = "{secret}"  # noqa: S105 (a template)

    def secret_names(self) -> tuple[str, ...]:
        """Return the secrets that a connection of this method takes."""
        return (self.secret,)

    def texts(self) -> tuple[str, ...]:
        """Return the templates, for the options that they name."""
        return (self.user, self.password)


class HeaderAuth(Strict):
    """A header of the vendor's own: `template` holds `{secret}`. `more` are further headers, each a secret's name."""

    kind: Literal["header"]
    header: HeaderName
    secret: str
    template: str = "{secret}"
    more: dict[HeaderName, str] = Field(default_factory=dict)

    def secret_names(self) -> tuple[str, ...]:
        """Return the secrets that a connection of this method takes."""
        return (self.secret, *self.more.values())

    def texts(self) -> tuple[str, ...]:
        """Return the templates, for the options that they name."""
        return (self.template,)


class QueryAuth(Strict):
    """A query parameter that is the secret."""

    kind: Literal["query"]
    parameter: str
    secret: str

    def secret_names(self) -> tuple[str, ...]:
        """Return the secrets that a connection of this method takes."""
        return (self.secret,)

    def texts(self) -> tuple[str, ...]:
        """Return the templates, for the options that they name."""
        return ()


class BodyAuth(Strict):
    """A secret in the JSON or form body: `fields` says which secret stands under which name at its top."""

    kind: Literal["body"]
    fields: dict[str, str] = Field(min_length=1)

    def secret_names(self) -> tuple[str, ...]:
        """Return the secrets that a connection of this method takes."""
        return tuple(self.fields.values())

    def texts(self) -> tuple[str, ...]:
        """Return the templates, for the options that they name."""
        return ()


class SignedJwtAuth(Strict):
    """A JWT that we sign for each call, or for each token call as an assertion.

    `secret` is a private key (PEM) or, for HS256, the shared key. `claims` are templates that may hold
    `{secret.<name>}` of `also`, and `{token_url}` in an assertion; `iat` and `exp` are added. `headers` are more JOSE
    headers.
    """

    kind: Literal["signed_jwt"] = "signed_jwt"
    algorithm: Literal["HS256", "RS256", "ES256"]
    secret: str
    also: tuple[str, ...] = ()
    claims: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    lifetime_s: int = Field(gt=0, le=3600)
    header: HeaderName = "Authorization"
    template: str = "Bearer {token}"

    def secret_names(self) -> tuple[str, ...]:
        """Return the secrets that a connection of this method takes."""
        return (self.secret, *self.also)

    def texts(self) -> tuple[str, ...]:
        """Return the templates, for the options that they name."""
        return (*self.claims.values(), *self.headers.values(), self.template)


class AwsSigV4Auth(Strict):
    """AWS Signature Version 4 over the whole request. `region` is a template, as a rule `{option.region}`."""

    kind: Literal["aws_sigv4"]
    service: str
    region: str
    access_key: str
    secret_key: str

    def secret_names(self) -> tuple[str, ...]:
        """Return the secrets that a connection of this method takes."""
        return (self.access_key, self.secret_key)

    def texts(self) -> tuple[str, ...]:
        """Return the templates, for the options that they name."""
        return (self.region,)


class MutualTls(Strict):
    """The client certificate that a connection presents: `certificate` and `key` are names of secrets, PEM both."""

    certificate: str = "client_certificate"
    key: str = "client_key"


class OAuth2Auth(Strict):
    """OAuth 2.0 with one grant. Its tokens are kept and refreshed by the sync worker.

    `scopes` are asked for unless the caller names others. `client_secret` is empty for a public client with PKCE.
    `refresh` says what a refresh token does: there is none, it may be used again, or each use brings a new one;
    `rotation_grace` says whether the old one lives until the new one is used, as some vendors allow for an answer that
    was lost. `refresh_expires_h` is how long an unused refresh token lives. `token_lifetime_s` is for answers without
    `expires_in`; `expires_at` points to the end in Unix seconds, for answers that state that instead. Without any of
    them the token does not end. `account` names the account in the token answer,
    `account_query` in the callback; without both the caller has to name it. `sandbox_hosts` maps the hosts of the
    addresses to those of the vendor's sandbox; a host that is not in it serves both.
    `mtls` is presented on token calls and on all others (RFC 8705).
    """

    kind: Literal["oauth2"]
    grant: Literal["authorization_code", "client_credentials", "jwt_bearer"]
    token_url: OAuthUrl
    authorize_url: OAuthUrl | None = None
    refresh_url: OAuthUrl | None = None
    revoke_url: OAuthUrl | None = None
    sandbox_hosts: dict[str, str] = Field(default_factory=dict)
    client_id: str = "client_id"
    client_secret: str = "client_secret"  # noqa: S105 (the name of a secret)
    client_auth: Literal["basic", "body"] = "body"
    encoding: Literal["form", "json"] = "form"
    scopes: tuple[str, ...] = ()
    scope_separator: str = " "
    pkce: bool = True
    refresh: Literal["none", "reusable", "rotating"] = "none"
    rotation_grace: Literal["none", "until_used"] = "none"
    refresh_expires_h: float | None = Field(default=None, gt=0)
    token_lifetime_s: int | None = Field(default=None, gt=0)
    expires_at: Pointer = ""
    header: HeaderName = "Authorization"
    template: str = "Bearer {access_token}"
    authorize_params: dict[str, str] = Field(default_factory=dict)
    token_params: dict[str, str] = Field(default_factory=dict)
    account: Pointer = ""
    account_query: str = ""
    assertion: SignedJwtAuth | None = None
    mtls: MutualTls | None = None

    @model_validator(mode="after")
    def _grant_is_complete(self) -> Self:
        if (self.grant == "authorization_code") != (self.authorize_url is not None):
            raise ValueError("authorize_url belongs to the grant authorization_code")
        if (self.grant == "jwt_bearer") != (self.assertion is not None):
            raise ValueError("an assertion belongs to the grant jwt_bearer")
        if self.grant != "authorization_code" and self.refresh != "none":
            raise ValueError("only the grant authorization_code has refresh tokens")
        if ACCESS_TOKEN in self.secret_names():
            raise ValueError(f"{ACCESS_TOKEN} is obtained, it cannot be a secret of this method")
        return self

    def secret_names(self) -> tuple[str, ...]:
        """Return the secrets that a connection of this method takes; tokens are not among them."""
        certificate = (self.mtls.certificate, self.mtls.key) if self.mtls is not None else ()
        if self.assertion is not None:
            return (*self.assertion.secret_names(), *certificate)
        return (*(name for name in (self.client_id, self.client_secret) if name), *certificate)

    def texts(self) -> tuple[str, ...]:
        """Return the templates, for the options that they name."""
        urls = (self.token_url, self.authorize_url or "", self.refresh_url or "", self.revoke_url or "")
        more = (*self.authorize_params.values(), *self.token_params.values())
        return (*urls, self.template, *more, *(self.assertion.texts() if self.assertion else ()))


AuthMethod = Annotated[
    BearerAuth | BasicAuth | HeaderAuth | QueryAuth | BodyAuth | SignedJwtAuth | AwsSigV4Auth | OAuth2Auth,
    Field(discriminator="kind"),
]


def options_of(method: AuthMethod) -> set[str]:
    """Return the options that the texts of a method name."""
    found: set[str] = set().union(*(names_in(text) for text in method.texts()))
    return {name.removeprefix("option.") for name in found if name.startswith("option.")}
