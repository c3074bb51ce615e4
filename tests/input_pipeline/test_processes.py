"""Tests of configs/quiet.py."""

import sys

import pytest

from configs import quiet


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
    assert quiet.import_module(noisy).VALUE == 7
    assert capfd.readouterr().err == printed


def test_stderr_is_back_after_a_failed_import(capfd, monkeypatch):
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "3")
    with pytest.raises(ModuleNotFoundError):
        quiet.import_module("no_such_module_at_all")
    print("heard", file=sys.stderr)
    assert capfd.readouterr().err == "heard\n"
