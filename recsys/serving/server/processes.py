"""Workers that share one listening socket: one process, or several under uvicorn's supervisor."""

import contextlib
import os
import signal
import socket
import tempfile
from functools import partial

from recsys.serving.server.limits import Limits
from recsys.serving.server.log import log
from recsys.serving.server.versions import Source, Versions
from recsys_tables.serving.artefact import ArtefactError

BACKLOG = 2048  # connections that wait to be accepted
_KEEP_ALIVE = 75  # seconds that an idle connection is held, which are more than those of a proxy in front
_STARTING = 120  # seconds in which a worker must have been started


def serve(source: Source, host: str, port: int, workers: int, limits: Limits, reload_seconds: float) -> None:
    """Serve until a signal asks to stop; what has been accepted by then is answered.

    Raises:
        ArtefactError: What is to be served cannot be opened.
        ValueError: The address cannot be listened on.
    """
    versions = Versions(source)
    versions.refresh()
    if versions.served is None:
        assert versions.refused is not None
        raise ArtefactError(f"{source.path}: cannot be served: {versions.refused.error}")
    with listening(host, port) as listener, tempfile.TemporaryDirectory() as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read by its library while it is imported
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"
        log("listening", url=url, workers=workers, name=versions.served.name, version=versions.served.version)
        with contextlib.suppress(KeyboardInterrupt):
            _run(versions, listener, workers, limits, reload_seconds)
    log("stopped")


def _run(
    versions: Versions, listener: socket.socket, workers: int, limits: Limits, reload_seconds: float
) -> None:
    from uvicorn import Config, Server
    from uvicorn.supervisors import Multiprocess

    from recsys.serving.server.app import make_app

    own = versions if workers == 1 else Versions(versions.source)  # each process opens its own
    config = Config(
        partial(make_app, own, limits, reload_seconds),
        factory=True,
        workers=workers,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=_KEEP_ALIVE,
        timeout_graceful_shutdown=int(2 * limits.seconds) + 1,  # a body, and its answer
        timeout_worker_healthcheck=_STARTING,
    )
    if workers == 1:
        Server(config).run([listener])
    else:
        Multiprocess(config, [listener]).run()


def listening(host: str, port: int) -> socket.socket:
    """Return a socket that says it is TCP's: asyncio sends small pieces of others late, after 40 ms (Nagle)."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
        return listener
    except (OSError, UnicodeError) as error:
        listener.close()
        raise ValueError(
            f"{host}, port {port}: cannot be listened on ({error}); name another --host or --port"
        ) from None
