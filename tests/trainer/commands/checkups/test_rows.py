"""Rows before and after they are prepared; planted faults: test_doctor.py."""

import pytest

from input_pipeline import preparation
from trainer.commands.checkups import check, rows


@pytest.fixture(name="case")
def _case(tiny, tmp_path):
    """A function: changes -> the tiny run, nothing prepared."""

    def create(more=()):
        changes = {"data.prepared_dir": str(tmp_path / "prepared")}
        config = tiny({**changes, **dict(more)})
        return check.Case(config, str(tmp_path / "run"), None, str(tmp_path))

    return create


def test_rows_that_are_not_there_are_not_made(case):
    patient = case()
    assert "begins 'the movie was" in rows.data(patient)
    where = preparation.locate(patient.config)
    assert f"puts them in {where}" in rows.rows(patient)
    assert not where.exists()
    assert patient.prepared is None
    assert "of 32 sample rows" in rows.masks(patient)


def test_rows_that_nobody_finished_in_a_store_are_not_there(case, bucket):
    patient = case({"data.prepared_dir": "gs://bucket/prepared"})
    where = preparation.locate(patient.config)
    bucket.objects[f"{where}/train-00000.tfrecord"] = b""
    assert "none yet; --mode=prepare, or training" in rows.rows(patient)


def test_rows_that_are_there_are_checked_and_masked(case):
    patient = case()
    directory = preparation.prepare(patient.config)
    assert rows.rows(patient).startswith(f"{directory} is whole")
    assert patient.prepared.directory == directory
    assert "of 8 prepared rows" in rows.masks(patient)


def test_no_validation_row_is_a_warning(case):
    patient = case({"data.validation_rate": 1e-9})
    preparation.prepare(patient.config)
    with pytest.raises(check.Imperfect, match="goes without validation"):
        rows.rows(patient)
