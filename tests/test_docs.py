"""What the pages say exists: knobs, files, and commands that run."""

import collections
import csv
import os
import pathlib
import random
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request

import pytest

from configs import schema

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGES = [
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").glob("*.md")),
    ROOT / "launch" / "README.md",
]
# What a block contains that is not executed here -> why.
NOT_RUN = {
    "make run": "makes the environment, as `.ci/run` does",
    "imdb": "needs the data set, and an hour",
    "bert_base": "needs a BERT of 110 million parameters",
    "docker": "needs Docker",
    "localhost:8501": "needs the server in Docker",
    "proofs/": "has tests of its own",
    "launch/": "has tests of its own",
    "benchmark.reference": "has tests of its own",
}
# Named as a knob would be.
FILES = {"evaluation.json", "model.safetensors"}
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def shell_blocks(page):
    """The commands of a page; its drawings and outputs start otherwise."""
    begins = r"(make|mkdir|export|echo|curl|docker|sbatch|(\.venv/bin/)?python"
    begins = re.compile(begins + r"|\.venv/bin/\w+|proofs/\S+|launch/\S+) ")
    return [
        text
        for language, text in BLOCK.findall(page.read_text())
        if not language and begins.match(text)
    ]


def is_run(block):
    return not any(words in block for words in NOT_RUN)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_names_knobs_and_files_that_exist(page):
    text = page.read_text()
    sections = schema.defaults().to_dict()
    knobs = {
        f"{section}.{name}"
        for section, fields in sections.items()
        if isinstance(fields, dict)
        for name in fields
    }
    named = {*re.findall(r"--config\.(\w+(?:\.\w+)?)", text)}
    inline = rf"`((?:{'|'.join(sections)})\.\w+)(?:=[^`]*)?`"
    named |= {*re.findall(inline, text)} - FILES
    assert named - knobs - sections.keys() == set()
    for link in re.findall(r"\]\(([^)#:=]+)(?:#[^)]*)?\)", text):
        assert (page.parent / link).exists(), link


@pytest.mark.soak
def test_the_commands_of_the_pages_run(scratch):
    """Line by line as they are written, with half a minute for training."""
    executed = collections.Counter()
    for page in PAGES[:1] + [p for p in PAGES if p.parent.name != "launch"][1:]:
        for block in filter(is_run, shell_blocks(page)):
            for command in block.replace("\\\n", " ").splitlines():
                scratch(command)
                executed[page.name] += 1
        for language, text in BLOCK.findall(page.read_text()):
            if language == "python":
                scratch(f".venv/bin/python -c {shlex.quote(PREAMBLE + text)}")
                executed[page.name] += 1
    assert executed["README.md"] >= 3
    assert executed["guide.md"] >= 7
    blocks = [block for page in PAGES for block in shell_blocks(page)]
    for words in NOT_RUN:
        assert any(words in block for block in blocks), words


# Names that the reader of a block in Python has.
PREAMBLE = """
import numpy as np
token_ids = np.ones([2, 64], "int32")
"""


@pytest.fixture
def scratch(tmp_path):
    """Runs a command in a folder with the code and with text to train on."""
    for name in ("configs", "input_pipeline", "storage", "trainer", "docs"):
        (tmp_path / name).symlink_to(ROOT / name)
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for program in pathlib.Path(sys.executable).parent.iterdir():
        if program.name != "python":
            (programs / program.name).symlink_to(program)
    python = programs / "python"
    python.write_text(
        "#!/bin/bash\n"
        'case "$*" in *--mode=*|-c*) ;; *) few=--config.train.minutes=0.5;; '
        f'esac\nexec {sys.executable} "$@" $few\n'
    )
    python.chmod(0o755)
    write_texts(tmp_path)
    servers = []

    def end():
        while servers:
            servers[-1].terminate()
            assert servers.pop().wait(60) == 0

    def run(command):
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        options = dict(shell=True, cwd=tmp_path, env=environment, text=True)
        if "--mode=serve" in command:
            end()
            with socket.socket() as free:  # The page names this port.
                free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                free.bind(("127.0.0.1", 8000))
            servers.append(subprocess.Popen(f"exec {command}", **options))
            return wait_for("http://127.0.0.1:8000/health", servers[0])
        found = subprocess.run(
            command, capture_output=True, timeout=1_800, **options
        )
        assert found.returncode == 0, command + found.stdout + found.stderr
        if command.startswith("curl"):
            assert '"label"' in found.stdout

    run(".venv/bin/python -m trainer.main --strategy=mirrored")
    yield run
    end()


def wait_for(address, server):
    for _ in range(120):
        try:
            return urllib.request.urlopen(address).read()
        except OSError:
            assert server.poll() is None
            time.sleep(0.5)
    raise AssertionError(f"{address} does not answer")


def write_texts(folder):
    """Texts of three teams, under the names that the pages use."""
    chance = random.Random(0)
    words = {
        "network": "wifi router cable dns vpn switch signal port".split(),
        "hardware": "printer screen keyboard battery fan mouse disk".split(),
        "billing": "invoice refund card payment price tax discount".split(),
    }
    common = (
        "my the is broken again since today and nobody helps us with".split()
    )
    texts = []
    for n in range(900):
        team = [*words][n % 3]
        pool = words[team] * 2 + common
        texts.append((" ".join(chance.choices(pool, k=12)), team))
    write_csv(folder / "tickets.csv", ["text", "team"], texts)
    both = [(text, f"{team}|urgent") for text, team in texts]
    write_csv(folder / "comments.csv", ["text", "emotions"], both)
    write_csv(folder / "labelled.csv", ["text", "team"], texts[:300])
    for name in ("more", "reviews"):
        (folder / name).mkdir()
    write_csv(folder / "more" / "1.csv", ["text"], [t[:1] for t in texts[300:]])
    lines = "\n".join(text for text, _ in texts)
    (folder / "reviews" / "1.txt").write_text(lines)


def write_csv(path, header, rows):
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
