from __future__ import annotations

import httpx
import pytest

from providers import registry

pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.skipif("twilio" not in registry.all_slugs(), reason="the provider's folder was deleted"),
]
ACCOUNT = "ACtest"
PATH = f"/twilio/2010-04-01/Accounts/{ACCOUNT}/Messages.json"
FORM = {"To": "+15555550100", "From": "+15005550006", "Body": "hello"}


async def test_list_filters_by_recipient_newest_first(client: httpx.AsyncClient) -> None:
    for changes in ({"Body": "one"}, {"To": "+15555550101"}, {"Body": "two"}):
        answer = await client.post(PATH, data=FORM | changes, auth=(ACCOUNT, "token"))
        assert (answer.status_code, answer.json()["status"]) == (201, "queued")
    page = (await client.get(PATH, params={"To": FORM["To"]}, auth=(ACCOUNT, "token"))).json()
    assert [one["body"] for one in page["messages"]] == ["two", "one"]


@pytest.mark.parametrize(
    ("changes", "code"),
    [({"To": ""}, 21604), ({"To": "nonsense"}, 21211), ({"From": ""}, 21603), ({"Body": ""}, 21602)],
)
async def test_malformed_message_is_refused(client: httpx.AsyncClient, changes: dict[str, str], code: int) -> None:
    answer = await client.post(PATH, data=FORM | changes, auth=(ACCOUNT, "token"))
    assert (answer.status_code, answer.json()["code"]) == (400, code)


@pytest.mark.parametrize("auth", [None, ("ACother", "token"), (ACCOUNT, "")])
async def test_credentials_must_be_the_accounts(client: httpx.AsyncClient, auth: tuple[str, str] | None) -> None:
    request = client.build_request("POST", PATH, data=FORM)
    answer = await client.send(request, auth=auth)
    assert (answer.status_code, answer.json()["code"]) == (401, 20003)
