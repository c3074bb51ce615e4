"""Tests of input_pipeline/processes.py."""

import math
import os
import sys

import pytest

from input_pipeline import processes


@pytest.fixture
def noisy(tmp_path, monkeypatch):
    """The name of a module that writes to file descriptor 2 when imported."""
    name = "noisy_module"
    (tmp_path / f"{name}.py").write_text(
        "import os\nos.write(2, b'noise')\nVALUE = 7\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, name, raising=False)
    return name


@pytest.mark.parametrize(("level", "printed"), [("3", ""), ("0", "noise")])
def test_import_module_drops_what_is_logged_while_loading(
    noisy, capfd, monkeypatch, level, printed
):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", level)
    assert processes.import_module(noisy).VALUE == 7
    assert capfd.readouterr().err == printed


@pytest.mark.parametrize("num_processes", [1, 2])
def test_a_pool_keeps_the_order(num_processes):
    with processes.pool("math", num_processes, 9) as run:
        assert list(run(math.factorial, range(9))) == [
            math.factorial(number) for number in range(9)
        ]


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="Linux alone limits cores"
)
def test_a_process_that_may_use_one_core_starts_no_others():
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        assert processes.num_cores() == 1
        with processes.pool("math", 0, 9) as run:
            assert run is map
    finally:
        os.sched_setaffinity(0, before)


def test_workers_see_no_gpu_and_one_that_is_killed_is_reported():
    with pytest.raises(ValueError, match="data.num_processes=1"):
        with processes.pool("math", 2, 2) as run:
            assert [*run(os.getenv, ["CUDA_VISIBLE_DEVICES"])] == ["-1"]
            list(run(os._exit, [3]))
