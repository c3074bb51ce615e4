"""The page in a real browser: what it shows, and that nothing in it runs.

Needs the package playwright and a Chromium: its own (`playwright install
chromium`), or one that CLOZE_CHROMIUM names.
"""

import csv
import os
import socket
import threading

import pytest
import uvicorn

from configs import schema
from trainer.serving import app

playwright = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed"
)
HOSTILE = "<img src=x onerror=alert(1)><script>alert(2)</script>"
FACTS = {
    "signatures": ["classify", "explain", "fill_mask"],
    "labels": [HOSTILE, "=1+1"],
    "mask": "[MASK]",
}


def ask(name, texts):
    """The second class for a text that begins with "=", else the first."""
    if name == "fill_mask":
        words = [[HOSTILE, 0.75], ["film", 0.25]]
        masked = [{"token": w, "probability": rate} for w, rate in words]
        return [{"masks": [masked] * t.count(b"[MASK]")} for t in texts]
    if name == "explain":
        words = [t.decode().split(" ") for t in texts]
        return [
            {
                "label": "one",
                "against": "other",
                "words": [word + " " for word in some],
                "contributions": {
                    "n-grams": [2.0, -1.0, 0.1, *[0.0] * 9][: len(some)],
                    "encoder": [1.0, None, 0.1, *[0.0] * 9][: len(some)],
                },
            }
            for some in words
        ]
    if name == "neighbours":
        one = {"text": HOSTILE, "label": HOSTILE, "similarity": 0.875}
        return [{"neighbours": [one]}] * len(texts)
    found = []
    for text in texts:
        second = 0.75 if text.startswith(b"=") else 0.125
        rates = dict(zip(FACTS["labels"], [1 - second, second], strict=True))
        label = max(rates, key=rates.get)
        if b"several" in text:
            label = ["one", "two"]
        elif b"nothing" in text:
            label = []
        found.append(
            {
                "label": label,
                "decision": "unsure" if b"sure" in text else label,
                "confidence": max(rates.values()),
                "probabilities": rates,
            }
        )
    return found


@pytest.fixture(scope="module")
def address():
    """Of a server."""
    application = app.create(
        ask, FACTS, schema.ServeConfig(neighbours=1), batch_size=4
    )
    server = uvicorn.Server(uvicorn.Config(application, log_level="warning"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(address):
    """The page; at the end it has asked nobody else and run nothing."""
    faults = []
    with playwright.sync_playwright() as tool:
        try:
            browser = tool.chromium.launch(
                executable_path=os.environ.get("CLOZE_CHROMIUM"),
                args=["--no-sandbox"],
            )
        except playwright.Error as error:
            pytest.skip(
                f"there is no Chromium: {error.message.splitlines()[0]}"
            )
        page = browser.new_page()

        def see(request):
            if not request.url.startswith((address, "blob:")):
                faults.append(request.url)

        page.on("request", see)
        page.on("pageerror", lambda error: faults.append(error.message))
        page.on("console", lambda message: faults.append(message.text))
        page.on("dialog", lambda dialog: faults.append(dialog.message))
        page.goto(address)
        yield page
        browser.close()
    assert faults == []


def test_a_text_gets_its_class_and_the_probabilities(page):
    page.fill("#text", f"{HOSTILE} \u202e\u2066")
    page.get_by_text("with a confidence of 87.5 %").wait_for()
    shown = page.locator("#answers").inner_text()
    assert HOSTILE in shown
    assert "12.5 %" in shown
    assert page.locator("#answers img, #answers script").count() == 0


def test_the_words_that_speak_for_the_answer_are_marked(page):
    page.fill("#text", "<b>good bad so</b> so")
    marks = page.locator("article mark")
    marks.first.wait_for()
    found = [
        (mark.inner_text(), mark.get_attribute("class")) for mark in marks.all()
    ]
    assert found == [("<b>good", "for"), ("bad", "against")]
    assert marks.first.get_attribute("title") == "n-grams 2.00, encoder 1.00"
    shares = [
        mark.evaluate("node => node.style.getPropertyValue('--share')")
        for mark in marks.all()
    ]
    assert [float(share) for share in shares] == pytest.approx([1, 1 / 3])


def test_training_documents_like_the_text_are_shown_below_it(page):
    page.fill("#text", "a text")
    table = page.locator("table", has_text="Training documents most like")
    table.wait_for()
    (row,) = table.locator("tr").all()
    assert row.locator("td").all_inner_texts() == [HOSTILE, HOSTILE, "0.88"]


def test_an_unsure_answer_says_what_it_would_have_been(page):
    page.fill("#text", "= not sure")
    answer = page.locator("#answers p").first
    answer.wait_for()
    assert answer.inner_text() == (
        "unsure with a confidence of 75.0 %: too little to decide for =1+1"
    )


def test_several_labels_or_none_are_shown_as_such(page):
    page.check("#lines")
    page.fill("#text", "several\nnothing")
    page.get_by_text("2 texts").wait_for()
    rows = page.locator("#answers tr")
    assert "one, two" in rows.nth(0).inner_text()
    assert "no class" in rows.nth(1).inner_text()


def test_masks_are_completed_in_the_sentence(page):
    page.fill("#text", f"{HOSTILE} was [MASK] [MASK]")
    sentence = page.locator("article")
    sentence.wait_for()
    assert sentence.inner_text() == f"{HOSTILE} was {HOSTILE} {HOSTILE}"
    assert page.locator("#answers table").count() == 2


def test_several_texts_are_saved_as_csv_without_formulas(page, tmp_path):
    page.check("#lines")
    page.fill("#text", '=a,"b"\n\nc [MASK]')
    page.get_by_text("2 texts").wait_for()
    with page.expect_download() as download:
        page.click("#download")
    path = tmp_path / "answers.csv"
    download.value.save_as(path)
    with open(path, newline="") as file:
        rows = [*csv.reader(file)]
    assert rows == [
        ["text", "answer", "confidence", HOSTILE, "'=1+1"],
        ['\'=a,"b"', "'=1+1", "0.75", "0.25", "0.75"],
        ["c [MASK]", HOSTILE, "", "", ""],
    ]


def test_a_file_has_a_text_in_every_line(page, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_text("one\r\ntwo\n\nthree sure\n")
    page.set_input_files("#file", path)
    page.get_by_text("3 texts").wait_for()
    assert page.locator("#answers tr").count() == 3
    assert "unsure" in page.locator("#answers tr").nth(2).inner_text()
