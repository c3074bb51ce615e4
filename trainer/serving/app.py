"""The web application of `--mode=serve`: one page, and endpoints with JSON.

N texts of a request.
"""

import asyncio
import contextlib
import functools
import json
import pathlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from configs import schema

# From a signature and texts in UTF-8 to an answer for each, or its "error".
Ask = Callable[[str, Sequence[bytes]], list[dict[str, Any]]]
# Endpoint -> what it does.
ENDPOINTS = {
    "classify": "The class of each text.",
    "explain": "The words that speak for the class of each text, and against.",
    "fill_mask": "The likeliest words for each [MASK] of each text.",
    "embed": "A vector for each text.",
    "neighbours": "The training documents that are most like each text.",
}
_PAGE = pathlib.Path(__file__).with_name("page")
_FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
}
# The page loads nothing from elsewhere, and runs no script but its own.
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self';"
    " style-src 'self'; connect-src 'self'; base-uri 'none'; form-action"
    " 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


def create(
    ask: Ask,
    facts: Mapping[str, Any],
    config: schema.ServeConfig,
    *,
    batch_size: int,
) -> Starlette:
    """The application; its endpoints are those that the export answers.

    Args:
      ask: answers texts.
      facts: of the export.
      config: limits, and where the page is served.
      batch_size: texts answered at once, of one request or of several.
    """
    batches = _Batches(ask, batch_size)
    offered = [*facts["signatures"], *["neighbours"] * bool(config.neighbours)]
    names = [name for name in ENDPOINTS if name in offered]
    about = {
        "status": "ok",
        "endpoints": names,
        "labels": facts["labels"],
        "mask": facts["mask"],
        "max_texts": config.max_texts,
        "max_characters": config.max_characters,
    }

    async def answer(name: str, request: Request) -> Response:
        texts = _texts(await _body(request, config.max_bytes), config)
        return JSONResponse({"answers": await batches.answers(name, texts)})

    async def health(request: Request) -> Response:
        return JSONResponse(about)

    async def description(request: Request) -> Response:
        return JSONResponse(openapi(names, config))

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        work = asyncio.create_task(batches.work())
        yield
        work.cancel()

    return Starlette(
        routes=[
            *(
                Route(path, functools.partial(_file, *file))
                for path, file in _FILES.items()
            ),
            Route("/health", health),
            Route("/openapi.json", description),
            *(
                Route(
                    f"/{name}",
                    functools.partial(answer, name),
                    methods=["POST"],
                )
                for name in names
            ),
        ],
        # Names that lead here from elsewhere are refused: a page of another
        # site could ask for the answers through them.
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=hosts(config.host))
        ],
        exception_handlers={HTTPException: _refuse, Exception: _fail},
        lifespan=lifespan,
    )


def hosts(host: str) -> list[str]:
    """The names under which a server at this address may be asked."""
    local = ("127.0.0.1", "localhost", "::1")
    return [*local, "[::1]"] if host in local else ["*"]


def openapi(names: Sequence[str], config: schema.ServeConfig) -> dict[str, Any]:
    """The description of the endpoints, OpenAPI 3.1."""
    texts = {
        "type": "array",
        "minItems": 1,
        "maxItems": config.max_texts,
        "items": {"type": "string", "maxLength": config.max_characters},
    }
    request = {
        "type": "object",
        "required": ["texts"],
        "properties": {"texts": texts},
    }
    answers = {
        "type": "object",
        "properties": {
            "answers": {"type": "array", "items": {"type": "object"}}
        },
    }
    error = {"type": "object", "properties": {"error": {"type": "string"}}}

    def content(of: dict[str, Any], what: str) -> dict[str, Any]:
        body = {"application/json": {"schema": of}}
        return {"description": what, "content": body}

    return {
        "openapi": "3.1.0",
        "info": {"title": "Cloze", "version": "1"},
        "paths": {
            f"/{name}": {
                "post": {
                    "summary": ENDPOINTS[name],
                    "requestBody": {**content(request, ""), "required": True},
                    "responses": {
                        "200": content(answers, "An answer for each text."),
                        "4XX": content(error, "What is wrong, and the remedy."),
                    },
                }
            }
            for name in names
        },
    }


class _Batches:
    """Answers the texts of all requests in batches, in the order they came."""

    def __init__(self, ask: Ask, size: int) -> None:
        self._ask, self._size = ask, size
        self._waiting = asyncio.Queue[
            tuple[str, bytes, asyncio.Future[dict[str, Any]]]
        ]()

    async def answers(
        self, name: str, texts: Sequence[bytes]
    ) -> list[dict[str, Any]]:
        """An answer for each text, in order."""
        loop = asyncio.get_running_loop()
        pending = [loop.create_future() for _ in texts]
        for text, future in zip(texts, pending, strict=True):
            self._waiting.put_nowait((name, text, future))
        return [*await asyncio.gather(*pending)]

    async def work(self) -> None:
        """Answers for ever; TensorFlow computes in a thread."""
        while True:
            batch = [await self._waiting.get()]
            while len(batch) < self._size and not self._waiting.empty():
                batch.append(self._waiting.get_nowait())
            for name in {name for name, _, _ in batch}:
                group = [(t, future) for of, t, future in batch if of == name]
                texts = [text for text, _ in group]
                found: list[Any]
                try:
                    found = await asyncio.to_thread(self._ask, name, texts)
                except Exception as error:
                    found = [error] * len(group)
                for (_, future), one in zip(group, found, strict=True):
                    if future.done():  # Its request has been given up.
                        continue
                    if isinstance(one, Exception):
                        future.set_exception(one)
                    else:
                        future.set_result(one)


async def _body(request: Request, most: int) -> bytes:
    """The body of a request, which must be declared as JSON."""
    kind = request.headers.get("content-type", "").split(";")[0].strip()
    if kind != "application/json":
        # A page of another site may send anything but this unasked.
        raise HTTPException(
            415,
            f"the body is {kind or 'of no type'}; send JSON with the header"
            " Content-Type: application/json",
        )
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > most:
            raise HTTPException(
                413,
                f"the body has more than {most:,} bytes (serve.max_bytes);"
                " send the texts in several requests",
            )
    return body


def _texts(body: bytes, config: schema.ServeConfig) -> list[bytes]:
    """The texts of a request, in UTF-8."""
    try:
        request = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise HTTPException(
            400, f'the body is not JSON ({error}); send {{"texts": ["…"]}}'
        ) from error
    texts = request.get("texts") if isinstance(request, dict) else None
    if not isinstance(texts, list) or not texts:
        raise HTTPException(
            422, 'there is no list of texts; send {"texts": ["…"]}'
        )
    if len(texts) > config.max_texts:
        raise HTTPException(
            413,
            f"{len(texts):,} texts, but a request may have"
            f" {config.max_texts:,} (serve.max_texts); send several requests",
        )
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise HTTPException(
                422,
                f"texts[{number}] is {json.dumps(text)[:50]}; every text must"
                " be a string",
            )
        if len(text) > config.max_characters:
            raise HTTPException(
                413,
                f"texts[{number}] has {len(text):,} characters, but a text may"
                f" have {config.max_characters:,} (serve.max_characters);"
                " split it",
            )
    # A lone surrogate, from an escape, is an error of its text alone.
    return [text.encode(errors="surrogatepass") for text in texts]


async def _file(name: str, kind: str, request: Request) -> Response:
    return Response(
        (_PAGE / name).read_bytes(), media_type=kind, headers=_HEADERS
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = ", ".join(route.path for route in request.app.routes)
    hints = {404: f"; there are {known}", 405: "; texts are sent with POST"}
    hint = hints.get(error.status_code, "")
    return JSONResponse(
        {"error": f"{error.detail}{hint}"},
        status_code=error.status_code,
        headers=error.headers,
    )


async def _fail(request: Request, error: Exception) -> Response:
    reason = " ".join(str(error).split())
    return JSONResponse({"error": f"not answered: {reason}"}, status_code=500)
