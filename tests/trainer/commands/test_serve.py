"""A server from its first line to its end."""

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request

from trainer import main as cli


def test_it_answers_until_it_is_told_to_end(exported):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "trainer.main", "--mode=serve"),
            *(f"--workdir={exported}", "--config.serve.port=0"),
        ],
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        address = re.search(r"http://\S+:\d+", process.stderr.readline())[0]
        request = urllib.request.Request(
            f"{address}/fill_mask",
            json.dumps({"texts": ["the [MASK] was", "no mask"]}).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request) as response:
            first, second = json.load(response)["answers"]
        assert len(first["masks"]) == 1
        assert second["masks"] == []
    finally:
        process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "ended\n")


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
