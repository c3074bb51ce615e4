"""Requests of any kind get an answer or one line; texts are asked together."""

import asyncio
import json
import threading

import httpx2
import pytest
from starlette.testclient import TestClient

from configs import schema
from trainer.serving import app

FACTS = {
    "signatures": ["classify", "embed"],
    "labels": ["bad", "good"],
    "mask": "[MASK]",
}
LIMITS = {"max_texts": 3, "max_characters": 5, "max_bytes": 100}


@pytest.fixture
def serve():
    """A function: ask, limits and host -> a client of the application."""
    clients = []

    def make(ask, *, batch_size=4, **changes):
        config = schema.ServeConfig(**changes)
        application = app.create(ask, FACTS, config, batch_size=batch_size)
        clients.append(
            TestClient(
                application,
                base_url="http://localhost",
                raise_server_exceptions=False,
            )
        )
        return clients[-1].__enter__()

    yield make
    for client in clients:
        client.__exit__(None, None, None)


def echo(name, texts):
    return [{"said": f"{name} {text.decode()}"} for text in texts]


def test_every_text_gets_its_answer_in_order(serve):
    client = serve(echo, batch_size=2)
    texts = ["one", "two", "three", "ü", ""]
    found = client.post("/embed", json={"texts": texts})
    assert found.status_code == 200
    said = [answer["said"] for answer in found.json()["answers"]]
    assert said == [f"embed {text}" for text in texts]


def test_neighbours_are_offered_where_they_are_wanted(serve):
    for number in (0, 2):
        client = serve(echo, neighbours=number)
        endpoints = client.get("/health").json()["endpoints"]
        assert ("neighbours" in endpoints) == bool(number)
        found = client.post("/neighbours", json={"texts": ["one"]})
        assert found.status_code == (200 if number else 404)


def test_texts_of_several_requests_are_asked_together():
    first_is_asked, go_on, asked = threading.Event(), threading.Event(), []

    def ask(name, texts):
        asked.append((name, len(texts)))
        first_is_asked.set()
        assert go_on.wait(30)
        return echo(name, texts)

    config = schema.ServeConfig()
    application = app.create(ask, FACTS, config, batch_size=3)

    async def run(requests):
        transport = httpx2.ASGITransport(application)
        async with (
            application.router.lifespan_context(application),
            httpx2.AsyncClient(
                transport=transport, base_url="http://localhost"
            ) as client,
        ):
            tasks = []
            for name, *texts in requests:
                post = client.post(f"/{name}", json={"texts": texts})
                tasks.append(asyncio.create_task(post))
                for _ in range(100):  # The loop comes to every task.
                    await asyncio.sleep(0)
                await asyncio.to_thread(first_is_asked.wait, 30)
            go_on.set()
            return [r.json()["answers"] for r in await asyncio.gather(*tasks)]

    requests = [("classify", "first")]
    requests += [("classify", "a"), ("embed", "b"), ("classify", "c", "d")]
    found = asyncio.run(run(requests))
    assert found == [echo(n, [t.encode() for t in ts]) for n, *ts in requests]
    assert asked[0] == ("classify", 1)
    assert sorted(asked[1:3]) == [("classify", 2), ("embed", 1)]
    assert asked[3:] == [("classify", 1)]


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"nope", 400, "not JSON"),
        (b"[" * 99, 400, "not JSON"),
        (b"\xff", 400, "not JSON"),
        (b"[]", 422, "no list of texts"),
        (b"{}", 422, "no list of texts"),
        (b'{"texts": "a"}', 422, "no list of texts"),
        (b'{"texts": []}', 422, "no list of texts"),
        (b'{"texts": ["a", 1]}', 422, "texts[1] is 1"),
        (b'{"texts": ["a", null]}', 422, "texts[1] is null"),
        (b'{"texts": ["a", "b", "c", "d"]}', 413, "4 texts"),
        (b'{"texts": ["123456"]}', 413, "texts[0] has 6 characters"),
        (b" " * 100, 400, "not JSON"),
        (b" " * 101, 413, "more than 100 bytes"),
    ],
)
def test_a_bad_request_is_refused_in_one_line(serve, body, status, message):
    client = serve(echo, **LIMITS)
    found = client.post(
        "/classify", content=body, headers={"content-type": "application/json"}
    )
    assert found.status_code == status
    assert message in found.json()["error"]
    assert "\n" not in found.json()["error"]
    # What just fits is answered.
    texts = ["12345", "b", "c"]
    assert client.post("/classify", json={"texts": texts}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        ("GET", "/classify", {}, 405),
        ("POST", "/fill_mask", {}, 404),  # The export has no such signature.
        ("GET", "/../secrets", {}, 404),
        # What a page of another site can send without being allowed to.
        ("POST", "/classify", {"content-type": "text/plain"}, 415),
        ("GET", "/health", {"host": "attacker.example"}, 400),
    ],
)
def test_what_is_not_offered_is_refused(serve, method, path, headers, status):
    client = serve(echo)
    found = client.request(method, path, headers=headers, content=b"{}")
    assert found.status_code == status


def test_other_hosts_may_ask_where_it_answers_other_machines(serve):
    client = serve(echo, host="0.0.0.0")
    found = client.get("/health", headers={"host": "server.example"})
    assert found.json()["labels"] == FACTS["labels"]


def test_a_failure_is_told_and_the_next_request_is_answered(serve):
    def ask(name, texts):
        if texts == [b"bad"]:
            raise RuntimeError("no\nmemory")
        return echo(name, texts)

    client = serve(ask)
    found = client.post("/classify", json={"texts": ["bad"]})
    assert found.status_code == 500
    assert "no memory" in found.json()["error"]
    assert client.post("/classify", json={"texts": ["a"]}).status_code == 200


def test_the_page_needs_nothing_from_elsewhere(serve):
    client = serve(echo)
    for path in ("/", "/page.js", "/page.css"):
        found = client.get(path)
        assert found.status_code == 200
        assert "default-src 'none'" in found.headers["content-security-policy"]
        assert "//" not in found.text.replace("// ", "")  # No address.
        assert "innerHTML" not in found.text


def test_the_description_names_the_endpoints_and_their_limits(serve):
    client = serve(echo, **LIMITS)
    paths = json.loads(client.get("/openapi.json").content)["paths"]
    assert paths.keys() == {"/classify", "/embed"}
    body = paths["/classify"]["post"]["requestBody"]["content"]
    schema = body["application/json"]["schema"]["properties"]["texts"]
    assert schema["maxItems"] == 3
    assert schema["items"]["maxLength"] == 5
