import pytest

from configs import schema
from input_pipeline import cleaning, sources, text_files


def _write(folder, **classes):
    """Files of every class, by name and text."""
    for name, files in classes.items():
        (folder / name).mkdir(parents=True)
        for file, text in files.items():
            (folder / name / file).write_text(text)
    return folder


@pytest.fixture(name="train")
def _train(tmp_path):
    folder = _write(
        tmp_path / "train",
        pos={"1_9.txt": "good\n\nfilm", "3_8.txt": ""},
        neg={"0_2.txt": "bad", "2_1.txt": "ugly", ".hidden": "x"},
        unsup={"0_0.txt": "some"},
    )
    (folder / "urls_pos.txt").write_text("http://")
    (folder / ".git").mkdir()
    return folder


def _config(folder, **fields):
    return schema.DataConfig(source="folders", path=str(folder), **fields)


def _read(data):
    return [
        (unit.split, *document[:2])
        for unit in sources.list_units(data)
        for document in sources.read(data, unit, cleaning.Counts())
    ]


TRAIN = [
    ("train", b"bad", "neg"),
    ("train", b"good\n\nfilm", "pos"),
    ("train", b"ugly", "neg"),
    ("train", b"", "pos"),
]


def test_a_file_is_a_document_and_its_folder_the_label(train, tmp_path):
    test = _write(tmp_path / "test", neg={"9.txt": "t"}, unsup={"1": "no test"})
    valid = _write(tmp_path / "valid", pos={"8": "v"})
    more = _write(tmp_path, more={"b.txt": "b", "a.txt": "a\na"}) / "more"
    assert _read(_config(train)) == [*TRAIN, ("unlabeled", b"some", "")]
    fields = {"test_path": str(test), "validation_path": str(valid)}
    fields["unlabeled_path"] = f"{more}/*.txt"
    assert _read(_config(train, **fields)) == [
        *TRAIN,
        ("unlabeled", b"some", ""),
        ("unlabeled", b"a\na", ""),
        ("unlabeled", b"b", ""),
        ("validation", b"v", "pos"),
        ("test", b"t", "neg"),
    ]
    # A long document is cut, and every part has the label.
    (train / "pos" / "1_9.txt").write_bytes(b"word " * 300_000)
    found = [label for split, raw, label in _read(_config(train)) if len(raw)]
    assert found == ["neg", "pos", "pos", "neg", ""]


def test_units_are_cut_between_files(train, monkeypatch):
    monkeypatch.setattr(text_files, "UNIT_BYTES", 8)
    units = sources.list_units(_config(train))
    names = [[p.path.split("/")[-1] for p in u.pieces] for u in units]
    assert names == [
        ["0_2.txt"],
        ["1_9.txt"],
        ["2_1.txt", "3_8.txt"],
        ["0_0.txt"],
    ]


def test_class_and_content_identify_a_file_and_not_its_place(train, tmp_path):
    def fingerprint():
        data = _config(next(tmp_path.glob("t*")))
        return sources.fingerprint(data, sources.list_units(data))

    before = fingerprint()
    train.rename(tmp_path / "the same")
    assert fingerprint() == before
    here = tmp_path / "the same"
    (here / "neg" / "0_2.txt").rename(here / "pos" / "0_2.txt")
    assert fingerprint() != before


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: f / "neg" / "0_2.txt",
            "0_2.txt is a file, .*another data.s",
        ),
        (lambda f: f / "none", "data.path=.*none is missing, .*a folder for"),
        (lambda f: f / "neg", "neg holds no folder, .*a folder for each class"),
        (lambda f: f.parent, "train is a class of .*: neg, pos, unsup. Name"),
        (lambda f: _write(f, new={}), "new is a class of .*, but holds no tex"),
        (lambda f: _write(f, new={"a": ""}), "new is a class .* holds no text"),
    ],
)
def test_what_is_no_folder_of_classes(train, change, message):
    with pytest.raises(ValueError, match=message):
        sources.list_units(_config(change(train)))


def test_a_test_on_the_text_of_the_training_is_refused(train, tmp_path):
    (tmp_path / "link").symlink_to(train)
    with pytest.raises(ValueError, match="in data.path and in data.test_path"):
        sources.list_units(_config(train, test_path=str(tmp_path / "link")))
