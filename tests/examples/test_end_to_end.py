"""The notebook runs from top to bottom."""

import json
import pathlib

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


@pytest.mark.soak  # An epoch of the sample run.
def test_the_notebook_ends_with_the_class_of_a_text(monkeypatch, tmp_path):
    notebook = json.loads((ROOT / "examples/end_to_end.ipynb").read_text())
    monkeypatch.chdir(tmp_path)
    names = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
    classify = names["model"].signatures["classify"]
    found = classify(text=names["tf"].constant(names["texts"][:1]))
    assert found["label"].numpy().tolist() == [b"positive"]
