"""A fake HTTP service for commands, and a real gateway and sandbox, each a process, on a real broker and Redis."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from chassis.sealing import Keyring
from chassis.testing.ports import LOOPBACK, free_port
from chassis.testing.processes import Process, spawn, wait_until
from chassis.testing.service_kit import AUDIENCE, ISSUER, LocalIssuer, declared_topics, produce, write_keyring
from contracts.events.sync import EndpointConfigured, SealedSecret, endpoint_secret_place
from contracts.topics import SYNC_ENDPOINTS, TOPICS
from providers.conformance import fixtures_for
from providers.provider import Provider
from providers.sdk import KeyPair

Asked = list[tuple[str, str, Any]]
"""Method, path with query, and the body as it was read from JSON, of each request."""

Answering = Callable[[str, str, Any], tuple[int, Any]]
"""(method, path with query, body) -> (status, what is shown): JSON, bytes as they are, None for nothing."""


@pytest.fixture
def serve_as(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Callable[[str, Answering], Asked]]:
    """Put a service of the test's own behind an address of the environment; returns what it was asked."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []
    monkeypatch.setenv("PATCHBAY_RUN_DIR", str(tmp_path))
    monkeypatch.setenv("PATCHBAY_TOKEN", "token")

    def start(name: str, answering: Answering) -> Asked:
        asked: Asked = []

        class Service(BaseHTTPRequestHandler):
            """Notes what it was asked, and answers as the test wants."""

            def _serve(self) -> None:
                length = int(self.headers.get("content-length", 0))
                body = json.loads(self.rfile.read(length)) if length else None
                asked.append((self.command, self.path, body))
                status, shown = answering(self.command, self.path, body)
                self.send_response(status)
                self.end_headers()
                self.wfile.write(shown if isinstance(shown, bytes) else b"" if shown is None else _json(shown))

            do_GET = do_POST = do_PATCH = do_PUT = do_DELETE = _serve  # noqa: N815 (the server's names)

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer((LOOPBACK, 0), Service)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        running.append((server, thread))
        monkeypatch.setenv(name, f"http://{LOOPBACK}:{server.server_address[1]}")
        return asked

    yield start
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def _json(shown: Any) -> bytes:
    return json.dumps(shown).encode()


@dataclass(frozen=True)
class Endpoint:
    """An endpoint that the gateway serves, and both halves of its key."""

    provider: Provider
    url: str
    registered_url: str
    keys: KeyPair = field(repr=False)
    options: Mapping[str, str]


def options_of(provider: Provider, choice: Mapping[str, str]) -> dict[str, str]:
    """Return an endpoint's options for one choice of the scheme: those of the folder's own examples."""
    examples = [one.fixture.options for one in provider.handshake_fixtures()]
    found: dict[str, str] = {}
    for one in (*examples, fixtures_for(provider, choice)[0].options, choice):
        found |= one
    return found


class Platform:
    """The running processes."""

    def __init__(self, bootstrap: str, keyring: Path, gateway: str, sandbox: str) -> None:
        self.bootstrap = bootstrap
        self.gateway = gateway
        self.sandbox = sandbox
        self._keyring = keyring

    def connect(self, provider: Provider, choice: Mapping[str, str], *, public: str = "") -> Endpoint:
        """Configure an endpoint and return once the gateway serves it; `public` is the host that the vendor knows."""
        token = f"ep-{uuid.uuid4().hex}"
        path = f"/hooks/{token}"
        options = options_of(provider, choice)
        keys = provider.verifier(options).generate()
        sealed = Keyring.load(self._keyring).seal(keys.verifying, endpoint_secret_place("t1", token, "k1"))
        registered = (public or self.gateway) + path
        record = EndpointConfigured(
            endpoint=token,
            connection=uuid.uuid4(),
            provider=provider.slug,
            tenant="t1",
            url=registered,
            secrets=(SealedSecret(key_id="k1", sealed=base64.b64encode(sealed).decode()),),
            options=options,
            version=1,
        )
        asyncio.run(produce(self.bootstrap, SYNC_ENDPOINTS, token, record))
        url = self.gateway + path
        wait_until(lambda: httpx.delete(url).status_code == 405, deadline_s=30, what="the endpoint is served")
        return Endpoint(provider, url, registered, keys, options)

    def control(self, path: str, body: Mapping[str, Any]) -> Any:
        """Order something from the sandbox."""
        answer = httpx.post(f"{self.sandbox}/_control/{path}", json=body, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()


def serve(module: str, folder: Path, env: Mapping[str, str]) -> Process:
    port = env["PATCHBAY_HTTP_PORT"]
    log = folder / f"{module}.log"
    process = spawn([sys.executable, "-m", module], log=log, env={**os.environ, **env}, cwd=folder)

    def ready() -> bool:
        try:
            return httpx.get(f"http://{LOOPBACK}:{port}/ready").is_success
        except httpx.TransportError:
            return False

    wait_until(ready, deadline_s=60, what=module, process=process)
    return process


@pytest.fixture(scope="session")
def platform(kafka_bootstrap: str, redis_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    folder = tmp_path_factory.mktemp("platform")
    asyncio.run(declared_topics(kafka_bootstrap, *TOPICS))
    keyring = write_keyring(folder)
    ports = free_port(), free_port()
    gateway, sandbox = (f"http://{LOOPBACK}:{port}" for port in ports)
    common = {"PATCHBAY_HTTP_HOST": LOOPBACK, "PATCHBAY_LOG_LEVEL": "WARNING"}
    settings = {
        "PATCHBAY_ROLE": "ingest",
        "PATCHBAY_HTTP_PORT": str(ports[0]),
        "PATCHBAY_KAFKA_BOOTSTRAP": kafka_bootstrap,
        "PATCHBAY_REDIS_URL": redis_url,
        "PATCHBAY_JWKS": LocalIssuer(folder).jwks,
        "PATCHBAY_JWT_ISSUER": ISSUER,
        "PATCHBAY_JWT_AUDIENCE": AUDIENCE,
        "PATCHBAY_KEYRING": str(keyring),
        "PATCHBAY_CLAIM_DIR": str(folder / "claims"),
        "PATCHBAY_VENDOR_KEY_OVERRIDE": f"{sandbox}/_keys",
        # The client certificate's header is believed from a proxy only.
        "PATCHBAY_TRUSTED_PROXIES": json.dumps([f"{LOOPBACK}/32"]),
    }
    started: list[Process] = []
    try:
        started.append(serve("sandbox", folder, {**common, "PATCHBAY_HTTP_PORT": str(ports[1])}))
        started.append(serve("webhook_gateway", folder, {**common, **settings}))
        yield Platform(kafka_bootstrap, keyring, gateway, sandbox)
    finally:
        for process in started:
            process.stop()
