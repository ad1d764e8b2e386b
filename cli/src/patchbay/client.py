"""The services' HTTP APIs as the command line uses them, with refusals turned into messages for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Self

import httpx

from patchbay.environment import TOKEN_VARIABLE, CliError, Environment

TIMEOUT_S: Final = 30.0
# The most that the services' lists give at once.
PAGE: Final = 200


class Refusal(CliError):  # noqa: N818 (a service's answer)
    """A service said no."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Platform:
    """One authenticated client for all services; `service` is a variable of `.run/env` such as `LEDGER_URL`."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._http = httpx.Client(timeout=TIMEOUT_S, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, service: str, path: str, /, **query: Any) -> Any:
        """Return what a GET answers; parameters that are None are left out."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._ask("GET", service, path, params=given)

    def every(self, service: str, path: str, /, **query: Any) -> list[Any]:
        """Return all items of a list, page by page."""
        found: list[Any] = []
        after = None
        while True:
            page = self.get(service, path, **query, limit=PAGE, after=after)
            found += page["items"]
            after = page.get("next")
            if after is None:
                return found

    def post(self, service: str, path: str, body: Mapping[str, Any]) -> Any:
        """Return what a POST answers."""
        return self._ask("POST", service, path, json=body)

    def put(self, service: str, path: str, body: Mapping[str, Any]) -> Any:
        """Return what a PUT answers."""
        return self._ask("PUT", service, path, json=body)

    def patch(self, service: str, path: str, body: Mapping[str, Any]) -> Any:
        """Return what a PATCH answers."""
        return self._ask("PATCH", service, path, json=body)

    def delete(self, service: str, path: str) -> None:
        """Delete something."""
        self._ask("DELETE", service, path)

    def text(self, service: str, path: str) -> str:
        """Return a plain-text page, such as a service's metrics."""
        return self._send("GET", service, path).text

    def unready(self, service: str) -> list[str]:
        """Return why a service says that it is not ready, such as a halted consumer; raises `CliError`."""
        answer = self._request("GET", service, "/ready")
        try:
            return [str(problem) for problem in answer.json()["problems"]]
        except (ValueError, KeyError, TypeError):
            raise CliError(f"{self.environment[service]}/ready answers {answer.status_code} and no reasons") from None

    def _ask(self, method: str, service: str, path: str, **options: Any) -> Any:
        answer = self._send(method, service, path, **options)
        return answer.json() if answer.content else None

    def _send(self, method: str, service: str, path: str, **options: Any) -> httpx.Response:
        """Send a request; raises `Refusal` for 4xx and 5xx, `CliError` when nobody answers."""
        answer = self._request(method, service, path, **options)
        if answer.is_error:
            raise _refusal(answer, f"{method} {self.environment[service]}{path}")
        return answer

    def _request(self, method: str, service: str, path: str, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {self.environment[TOKEN_VARIABLE]}"}
        url = self.environment[service] + path
        try:
            return self._http.request(method, url, headers=headers, **options)
        except httpx.HTTPError as error:
            raise CliError(f"{url} does not answer ({type(error).__name__}); is the platform up? make status") from None


def _refusal(answer: httpx.Response, what: str) -> Refusal:
    try:
        problem = answer.json()
    except ValueError:
        problem = {}
    code = str(problem.get("code", ""))
    told = f"{what}: {answer.status_code} {code} {problem.get('detail', '')}".strip()
    errors = problem.get("errors", ())
    if len(errors) > 1:
        told += "".join(f"\n  {one['field']}: {one['rule']}" for one in errors)
    return Refusal(answer.status_code, code, told)
