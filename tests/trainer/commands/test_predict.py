"""Lines in, JSON lines out: in order, at once, in any encoding."""

import dataclasses
import io
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys

import pytest
import tensorflow as tf

from trainer import main as cli
from trainer.commands import predict
from trainer.serving import explanations, loading

ROOT = pathlib.Path(cli.__file__).resolve().parents[1]
LINES = [
    b"the movie was good",
    b"the movie was [MASK] and i [MASK] it",
    b"",
    b"bad \xff byte",
    b" \t\r",
    b"[MASK] " * 9,
    b"[MASK]" + b" it" * 40 + b" [MASK]",
    "café\u2028naïve".encode(),
    b"the movie was good",
]


@pytest.fixture(autouse=True)
def _from_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


def check(answers):
    """Asserts that these answers are those to LINES."""
    answers = [*answers]
    assert [answer["line"] for answer in answers] == [*range(1, 10)]
    for answer in (answers[0], answers[7], answers[8]):
        assert answer.keys() == {
            "line",
            "label",
            "decision",
            "confidence",
            "probabilities",
        }
        rates = answer["probabilities"]
        assert answer["decision"] == answer["label"]
        assert answer["confidence"] == max(rates.values())
        assert list(rates) == ["bad", "good", "so so"]
        assert sum(rates.values()) == pytest.approx(1, abs=1e-5)
        assert rates[answer["label"]] == max(rates.values())
    assert answers[8]["probabilities"] == pytest.approx(
        answers[0]["probabilities"], abs=1e-5
    )
    first, second = answers[1]["masks"]
    assert len(first) == len(second) == 5
    for masked in (first, second):
        rates = [one["probability"] for one in masked]
        assert rates == sorted(rates, reverse=True)
        assert all(one["token"] for one in masked)
    for n, message in {
        2: "empty line",
        3: "not UTF-8: invalid start byte at byte 4",
        4: "empty line",
        5: "9 masks, but at most 8",
        6: "too far apart: one row holds 16 slots",
    }.items():
        assert answers[n].keys() == {"line", "error"}
        assert message in answers[n]["error"]


def test_lines_of_a_file_are_answered_in_order(exported, tmp_path, capfd):
    (tmp_path / "lines").write_bytes(b"\n".join(LINES))
    argv = [
        "--mode=predict",
        f"--config.predict.export_dir={exported / 'export'}",
        f"--config.predict.input={tmp_path / 'lines'}",
        "--config.predict.batch_size=2",
        "--workdir=/nonexistent",
    ]
    assert cli.main(argv) == 0
    check(map(json.loads, capfd.readouterr().out.splitlines()))


def test_words_are_explained_in_the_line_and_below_it(
    exported, tmp_path, capfd
):
    text = b"it was <b>good</b>, \xe2\x80\x8f\xd7\xa9\xd7\x9c good"
    (tmp_path / "lines").write_bytes(b"\n".join([text, *LINES[1:4], b"film"]))
    argv = [
        "--mode=predict",
        f"--config.predict.export_dir={exported / 'export'}",
        f"--config.predict.input={tmp_path / 'lines'}",
        "--config.predict.explain=True",
    ]
    assert cli.main(argv) == 0
    out, err = capfd.readouterr()
    first, *others, last = map(json.loads, out.splitlines())
    assert "masks" in others[0]
    assert [*others[1], *others[2]] == ["line", "error"] * 2
    found = first["explanation"]
    assert "".join(found["words"]).encode() == text
    assert found["label"] == first["label"] != found["against"]
    rates = [first["probabilities"][found[k]] for k in ("label", "against")]
    log_odds = math.log(rates[0] / rates[1])
    assert found["log_odds"] == pytest.approx(log_odds, abs=1e-4)
    values = found["contributions"]["encoder"]
    assert len(values) == len(found["words"])
    assert "line 2:" not in err
    shown, _ = err.split("line 5:\n")
    assert f"{found['label']} rather than {found['against']}" in shown
    most = max(range(len(values)), key=lambda n: abs(values[n]))
    word = found["words"][most].strip()
    assert f": {values[most]:+.2f} {word}" in shown
    assert last["explanation"]["words"] == ["film"]


def test_what_is_not_explained_is_said():
    found = {
        "label": "a",
        "against": "b",
        "log_odds": -0.004,
        "words": ["x ", "y ", "z"],
        "contributions": {"n-grams": [1, 0, -2.5], "encoder": [3, None, None]},
    }
    assert [*explanations.lines(found)] == [
        "a rather than b: log-odds -0.00",
        "  n-grams, for it: +1.00 x",
        "  n-grams, against it: -2.50 z",
        "  encoder, for it: +3.00 x",
        "  encoder: 2 later words are not explained",
    ]
    for most, number in ((1, 0), (2, 1), (4, 2), (5, 3)):
        short = explanations.shortened(found, most)
        lists = [short["words"], *short["contributions"].values()]
        assert [*map(len, lists)] == [number] * 3


@pytest.fixture(scope="module")
def loaded(exported):
    return loading.load(exported / "export")


def test_what_is_not_read_of_a_line_is_counted(loaded):
    most = loaded.facts["max_pieces"] * loaded.facts["sequence_length"]
    lines = [b" ".join([b"good"] * n) for n in (most - 1, most, most + 3)]
    answers = predict.answers(loaded, lines)
    assert [a.get("unread_tokens") for a in answers] == [None, None, 3]


def test_an_export_without_classifier_says_so(loaded):
    half = {"fill_mask": loaded.signatures["fill_mask"]}
    half = dataclasses.replace(loaded, signatures=half)
    first, second = predict.answers(half, LINES[:2])
    assert "no classify" in first["error"]
    assert len(second["masks"]) == 2


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_holds_in_any_encoding(
    encoding, tiny, one_device, tmp_path, monkeypatch
):
    answer = {
        "label": tf.constant(["caf\u00e9"]),
        "probabilities": tf.constant([[0.5, 0.5]]),
    }
    labels = ["neg", "caf\u00e9 \u5f88"]
    fake = loading.Exported(
        {"mask": "[MASK]", "labels": labels}, {"classify": lambda _: answer}
    )
    monkeypatch.setattr(loading, "load", lambda _: fake)
    (tmp_path / "lines").write_text("a line\n")
    content = io.BytesIO()
    monkeypatch.setattr(
        sys, "stdout", io.TextIOWrapper(content, encoding=encoding)
    )
    changes = {"predict.input": str(tmp_path / "lines")}
    config = tiny({**changes, "predict.export_dir": str(tmp_path)})
    predict.run(config, workdir="", runtime=one_device)
    printed = json.loads(content.getvalue().decode(encoding))
    assert printed["label"] == "caf\u00e9"
    assert printed["probabilities"] == dict.fromkeys(labels, 0.5)


def test_an_older_export_answers_with_a_warning(
    exported, tmp_path, capfd, caplog
):
    workdir = shutil.copytree(exported, tmp_path / "run")
    (best,) = workdir.glob("checkpoints/finetune/step-*10")
    shutil.rmtree(best)
    (tmp_path / "lines").write_text("a good film")
    argv = ["--mode=predict", f"--workdir={workdir}"]
    argv.append(f"--config.predict.input={tmp_path / 'lines'}")
    assert cli.main(argv) == 0
    assert capfd.readouterr().out.count("\n") == 1
    assert "has another classifier by now" in caplog.text


def test_a_typed_line_is_answered_at_once(exported):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "trainer.main", "--mode=predict"),
            f"--workdir={exported}",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=dict(os.environ),
    )
    answers = []
    for line in LINES[:2]:
        process.stdin.write(line + b"\n")
        process.stdin.flush()
        answers.append(process.stdout.readline())
    out, err = process.communicate(b"\n".join(LINES[2:]))
    assert process.returncode == 0, err
    assert err == b""
    check([json.loads(line) for line in [*answers, *out.splitlines()]])


def test_an_export_that_cannot_explain_is_refused(
    tiny, one_device, tmp_path, monkeypatch
):
    older = loading.Exported({}, {"classify": None})
    monkeypatch.setattr(loading, "load", lambda _: older)
    changes = {"predict.export_dir": str(tmp_path), "predict.input": os.devnull}
    with pytest.raises(
        ValueError, match="cannot explain: it has no classifier"
    ):
        predict.run(
            tiny({**changes, "predict.explain": True}),
            workdir="",
            runtime=one_device,
        )


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--workdir={empty}"], "--mode=export"),
        (["--config.predict.export_dir={empty}"], "manifest.json is missing"),
        (
            ["--config.predict.export_dir={run}"],
            "{run} is a workdir; its export is {run}/export",
        ),
        (
            ["--workdir={run}", "--config.predict.input=/no/file"],
            "predict.input=/no/file cannot be read",
        ),
        (
            ["--workdir={run}", "--config.predict.input={empty}"],
            "Is a directory",
        ),
    ],
)
def test_what_is_not_there_is_named(exported, tmp_path, capfd, argv, message):
    places = {"run": exported, "empty": tmp_path}
    argv = [word.format(**places) for word in argv]
    assert cli.main(["--mode=predict", *argv]) == 2
    output = capfd.readouterr()
    assert output.out == ""
    (line,) = output.err.splitlines()
    assert message.format(**places) in line


def test_batches_wait_for_nothing():
    reader, writer = os.pipe()
    lists = predict.batches(reader, size=3)
    os.write(writer, b"a\nb\nhalf")
    assert next(lists) == [b"a", b"b"]
    os.write(writer, b" a line\nc\nd\ne\n\nf")
    assert next(lists) == [b"half a line", b"c", b"d"]
    assert next(lists) == [b"e", b""]
    os.close(writer)
    assert list(lists) == [[b"f"]]
    os.close(reader)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"\n", [[b""]]),
        (b"a\nb\nc\nd\n", [[b"a", b"b"], [b"c", b"d"]]),
        (b"a\nb\nc", [[b"a", b"b"], [b"c"]]),
    ],
)
def test_batches_of_a_file(tmp_path, content, expected):
    (tmp_path / "x").write_bytes(content)
    with open(tmp_path / "x", "rb") as file:
        assert list(predict.batches(file.fileno(), size=2)) == expected
