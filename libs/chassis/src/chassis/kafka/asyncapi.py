"""The AsyncAPI 3 document of a service, from the topics that it reads and writes; works without a broker."""

from __future__ import annotations

import json
from functools import reduce
from operator import or_
from typing import Any

from faststream.kafka import KafkaBroker

from contracts.catalogue import CATALOGUE
from contracts.topics import TOPICS, Topic


def document(service: str, version: str = "1") -> str:
    """Return the document as indented JSON with sorted keys: a golden file per service."""
    # 0.6 s of imports that no running service needs.
    from faststream import FastStream  # noqa: PLC0415
    from faststream.specification import AsyncAPI  # noqa: PLC0415

    broker = KafkaBroker("localhost:9092")
    for topic in TOPICS:
        if service in topic.readers:
            _subscribe(broker, topic)
        if {service, "every service"} & set(topic.writers):
            broker.publisher(topic.name, schema=_schema(topic), title=topic.name, description=_describe(topic))
    app = FastStream(broker, specification=AsyncAPI(title=service, version=version, schema_version="3.0.0"))
    specification = json.loads(app.schema.to_specification().to_json())
    specification.pop("servers", None)
    for channel in specification.get("channels", {}).values():
        channel.pop("servers", None)
    return json.dumps(specification, indent=2, sort_keys=True) + "\n"


def _subscribe(broker: KafkaBroker, topic: Topic) -> None:
    async def consume(body: Any) -> None:
        """Exists for the document only; the batch loop consumes."""

    consume.__annotations__["body"] = _schema(topic)
    broker.subscriber(topic.name, title=f"{topic.name}:read", description=_describe(topic))(consume)


def _schema(topic: Topic) -> Any:
    """Return the union of the topic's models; a provider's own body has none."""
    models = [CATALOGUE[name] for name in topic.types if name in CATALOGUE]
    return reduce(or_, models) if models else bytes


def _describe(topic: Topic) -> str:
    return f"CloudEvents 1.0, binary mode; types: {', '.join(topic.types)}; key: {topic.key}."
