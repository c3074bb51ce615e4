"""A server from its first line to its end."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request

from input_pipeline import labelled_texts
from trainer import main as cli


def test_it_answers_until_it_is_told_to_end(exported, labelled, tmp_path):
    workdir = shutil.copytree(exported, tmp_path / "run")
    record = json.loads((workdir / "config.json").read_text())
    record["config"]["data"] = labelled().to_dict()["data"]
    (workdir / "config.json").write_text(json.dumps(record))
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "trainer.main", "--mode=serve"),
            *(f"--workdir={workdir}", "--config.serve.port=0"),
            "--config.serve.neighbours=2",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r"http://\S+:\d+", process.stderr.readline())[0]

        def ask(endpoint, *texts):
            request = urllib.request.Request(
                f"{address}/{endpoint}",
                json.dumps({"texts": texts}).encode(),
                {"Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request) as response:
                return json.load(response)["answers"]

        first, second = ask("fill_mask", "the [MASK] was", "no mask")
        assert len(first["masks"]) == 1
        assert second["masks"] == []
        (found,) = ask("neighbours", "a wonderful movie")
        best, next_best = found["neighbours"]
        assert best["label"] in ("bad", "good") and best["text"]
        assert best["similarity"] >= next_best["similarity"]
    finally:
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "ended\n")


def test_neighbours_without_the_run_or_labels_are_refused(
    exported, tmp_path, capfd
):
    argv = ["--mode=serve", f"--workdir={tmp_path}", "--config.serve.port=0"]
    export = f"--config.predict.export_dir={exported}/export"
    assert cli.main([*argv, export, "--config.serve.neighbours=1"]) == 2
    assert "name the workdir of the run" in capfd.readouterr().err
    argv[1] = f"--workdir={exported}"  # Of text without labels.
    assert cli.main([*argv, "--config.serve.neighbours=1"]) == 2
    assert "there is none; leave it out" in capfd.readouterr().err


def test_an_address_in_use_is_refused_before_anything_is_loaded(
    tmp_path, capfd
):
    (tmp_path / "export").mkdir()  # Damaged, had it been looked at.
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        argv = ["--mode=serve", f"--workdir={tmp_path}"]
        assert cli.main([*argv, f"--config.serve.port={port}"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert f"serve.port={port} cannot be used: Address already in use" in line


def test_only_labelled_training_documents_are_compared(labelled):
    documents = labelled_texts.training(labelled())
    assert {label for _, label in documents} == {"bad", "good"}
    assert 100 < len(documents) < 200  # Without validation and test.
