"""What a check raises becomes its line; planted faults: test_doctor.py."""

import errno

import pytest

from trainer.commands.checkups import check


@pytest.mark.parametrize(
    ("error", "verdict", "text"),
    [
        (check.Imperfect("so\n so"), "warning", "so\n so"),
        (ValueError("no\n  row"), "wrong", "no row"),
        (
            KeyError("x"),
            "wrong",
            "KeyError: 'x'; CLOZE_TRACEBACK=1 shows where",
        ),
        (
            OSError(errno.EACCES, "Permission denied", "/a/b"),
            "wrong",
            "/a/b: Permission denied; check that the path is right and that"
            " you may use it.",
        ),
    ],
)
def test_whatever_is_raised_is_a_line(error, verdict, text):
    def some_check(case):
        assert case == "case"
        raise error

    line = check.perform(some_check, "case")
    assert line == (verdict, "some check", text)


def test_a_traceback_on_demand(monkeypatch, capsys):
    monkeypatch.setenv("CLOZE_TRACEBACK", "1")
    check.perform(lambda case: {}["x"], None)
    assert "Traceback (most recent call last)" in capsys.readouterr().err
