"""What people would pick instead: the script that measures it."""

import csv
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "proofs" / "comparison" / "compare.py"


def test_a_linear_model_is_trained_chosen_and_tested(tmp_path):
    for name, number in (("train", 80), ("test", 10)):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(["body", "team"])
            rows.writerow(["without a label", ""])
            for n in range(number):
                word = ("router wifi", "invoice card")[n % 2]
                rows.writerow([f"the {word} {n % 7}\nagain", "ab"[n % 2]])
    found = subprocess.run(
        [sys.executable, SCRIPT, "tfidf", "train.csv", "test.csv"]
        + ["--text=body", "--label=team"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    result = json.loads(found.stdout)
    assert (result["accuracy"], result["test_documents"]) == (1.0, 10)
    assert result["megabytes_on_disk"] > 0 and result["peak_megabytes"] > 10


def test_what_is_missing_is_said():
    found = subprocess.run(
        [sys.executable, SCRIPT, "spacy", "train.csv"],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 2
    assert "spacy needs a csv file" in found.stderr
