"""`--mode=serve`: the export behind a page and JSON endpoints."""

import functools
import logging
import socket
import sys
from collections.abc import Sequence
from typing import Any

import uvicorn

from configs import schema
from configs.runtime import Runtime
from trainer import trained
from trainer import workdir as workdir_lib
from trainer.commands import predict
from trainer.serving import app, loading, neighbours

_log = logging.getLogger(__name__)
_MOST_CONNECTIONS = 256  # Further ones are told to come back later.
_SECONDS_TO_END = 10  # For requests that are being answered.


def run(config: schema.Config, *, workdir: str, runtime: Runtime) -> None:
    """Serves until Ctrl-C or SIGTERM; requests that have come are answered.

    Raises:
      ValueError: there is no export, a file of it is missing or changed, the
        address is in use, or the documents for `serve.neighbours` are missing.
    """
    serve = config.serve
    directory = loading.directory_of(workdir, config.predict.export_dir)
    with _bound(serve) as listener:
        exported = loading.load(directory)
        if not config.predict.export_dir:
            trained.warn_if_older(workdir, exported.facts)
        ask: app.Ask = functools.partial(predict.ask, exported)
        if serve.neighbours:
            ask = _with_neighbours(ask, workdir, serve.neighbours)
        # A first call takes a second longer, that of the others when it comes.
        ask("classify", [b"warm-up"])
        server = uvicorn.Server(
            uvicorn.Config(
                app.create(
                    ask,
                    exported.facts,
                    serve,
                    batch_size=config.predict.batch_size,
                ),
                log_level="warning",
                limit_concurrency=_MOST_CONNECTIONS,
                timeout_graceful_shutdown=_SECONDS_TO_END,
                server_header=False,
            )
        )
        listener.listen()  # Who follows the line below is not turned away.
        host = f"[{serve.host}]" if ":" in serve.host else serve.host
        port = listener.getsockname()[1]
        _log.info("%s at http://%s:%d; Ctrl-C ends", directory, host, port)
        sys.stdout.flush()
        try:
            server.run(sockets=[listener])
        except KeyboardInterrupt:  # By then all requests are answered.
            _log.info("ended")


def _with_neighbours(ask: app.Ask, workdir: str, number: int) -> app.Ask:
    """The same, and the nearest training documents of the run in `workdir`."""
    from input_pipeline import labelled_texts  # It takes seconds to import.

    if not (recorded := workdir_lib.read(workdir)):
        raise ValueError(
            f"serve.neighbours={number} shows documents that a run was trained"
            f" on, but --workdir={workdir} has no config.json; name the workdir"
            " of the run, or leave serve.neighbours out."
        )
    documents = labelled_texts.training(
        schema.Config.from_dict(recorded["config"])
    )
    index = neighbours.Neighbours(
        functools.partial(ask, "embed"), documents, number
    )

    def answer(name: str, texts: Sequence[bytes]) -> list[dict[str, Any]]:
        return index.of(texts) if name == "neighbours" else ask(name, texts)

    return answer


def _bound(serve: schema.ServeConfig) -> socket.socket:
    """A socket at the address, before the seconds that loading takes."""
    kind = socket.AF_INET6 if ":" in serve.host else socket.AF_INET
    listener = socket.socket(kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((serve.host, serve.port))
    except OSError as error:
        listener.close()
        raise ValueError(
            f"serve.host={serve.host} with serve.port={serve.port} cannot be"
            f" used: {error.strerror}; choose another port, or 0 for any that"
            " is free."
        ) from error
    return listener
