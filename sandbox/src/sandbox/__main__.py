"""`python -m sandbox`: serve the sandbox until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import signal

from chassis.clock import SystemClock
from chassis.http.server import HttpServer
from chassis.telemetry.logs import logger, setup_logs
from sandbox.app import Sandbox
from sandbox.settings import Settings

log = logger(__name__)


async def serve(settings: Settings) -> None:
    """Serve until a signal comes."""
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    sandbox = Sandbox(settings, SystemClock())
    server = HttpServer(sandbox.app, settings.http_host, settings.http_port)
    await server.start()
    log.info("ready", port=settings.http_port)
    await stop.wait()
    await sandbox.close()
    await server.stop()


def main() -> None:
    """Run the sandbox. Blocking."""
    settings = Settings()
    setup_logs("sandbox", settings.log_level)
    asyncio.run(serve(settings))


if __name__ == "__main__":
    main()
