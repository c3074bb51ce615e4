"""Tests of trainer/commands/benchmark.py."""

import json

import pytest

from trainer.commands import benchmark
from trainer.run import Run


@pytest.mark.parametrize("what", ["step", "input"])
def test_prints_and_writes_its_result(
    tiny, one_device, tmp_path, capsys, monkeypatch, what
):
    monkeypatch.setitem(
        benchmark._MEASURES, what, lambda *_: {"figure": 1.5, "f" * 40: 2}
    )
    config = tiny({"benchmark.what": what})
    benchmark.run(Run(config, workdir=str(tmp_path / "w"), runtime=one_device))
    path = tmp_path / "w" / f"benchmark-{what}.json"
    result = json.loads(path.read_text())
    assert result["what"] == what
    assert result["figure"] == 1.5
    printed = capsys.readouterr().out.splitlines()
    assert [row.split()[0] for row in printed] == list(result)
