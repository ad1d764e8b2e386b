"""A server that speaks S3, on a loopback port of its own, in a thread of the test's process."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from chassis.testing.ports import LOOPBACK


@contextmanager
def private_s3() -> Iterator[str]:
    """Run the server until the block ends and return its URL; what it holds is in memory and of this process."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    # One request at a time: moto closes an object's file when it is overwritten, also under a thread that still hashes
    # it, and answers with a 500 that no S3 would give.
    server = make_server(LOOPBACK, 0, DomainDispatcherApplication(create_backend_app), threaded=False)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://{LOOPBACK}:{server.port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
