"""Tests of configs/overrides.py."""

import dataclasses
import json
import pathlib

import pytest

from configs import overrides, schema

CONFIGS = pathlib.Path(schema.__file__).parent
RUN_FILES = [
    path
    for path in sorted(CONFIGS.glob("*.py"))
    if "def get_config(" in path.read_text()
]
SAMPLE = str(CONFIGS / "sample.py")

HEAD = "from configs import schema\n"


def write(folder, body, *, head=HEAD):
    """The path of a config file whose get_config() has this body."""
    path = folder / "mine.py"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    path.write_text(f"{head}def get_config():\n{lines}\n")
    return str(path)


def message_of(path, **changes):
    with pytest.raises(ValueError) as error:
        overrides.load_config(path, changes=changes)
    return str(error.value)


def test_fields_are_named_as_on_the_command_line():
    assert overrides.FIELDS["config.seed"] is int
    assert overrides.FIELDS["config.model.dropout"] is float
    assert overrides.FIELDS["config.model.token_types"] is bool
    assert overrides.FIELDS["config.data.source"] is str
    assert overrides.FIELDS["config.evaluation.sentences"] is tuple
    assert "config.model" not in overrides.FIELDS


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_every_run_file_of_the_project_loads(path):
    assert isinstance(
        overrides.load_config(str(path), changes={}), schema.Config
    )


def test_sample_is_the_sample_in_float32():
    config = overrides.load_config(SAMPLE, changes={})
    assert config.data.source == "sample"
    assert config.train.precision == "float32"


def test_overrides_change_only_their_field():
    plain = overrides.load_config(SAMPLE, changes={})
    config = overrides.load_config(SAMPLE, changes={"config.seed": "3"})
    assert config == dataclasses.replace(plain, seed=3)


def test_overrides_win_over_the_file_and_are_checked_last(tmp_path):
    path = write(
        tmp_path,
        "c = schema.defaults()\n"
        "c.model.num_heads = 3\n"  # Wrong, until the command line mends it.
        "return c",
    )
    assert "multiple of" in message_of(path)
    config = overrides.load_config(
        path, changes={"config.model.num_heads": "2"}
    )
    assert config.model.num_heads == 2


def test_a_derived_field_follows_an_override(tmp_path):
    path = write(
        tmp_path,
        "c = schema.defaults()\n"
        "c.optimizer.warmup_steps = c.train.get_ref('num_steps') * 2\n"
        "return c",
    )
    config = overrides.load_config(
        path, changes={"config.train.num_steps": "5"}
    )
    assert config.optimizer.warmup_steps == 10


def test_a_locked_config_can_be_overridden(tmp_path):
    path = write(tmp_path, "return schema.defaults().lock()")
    config = overrides.load_config(path, changes={"config.seed": "3"})
    assert config.seed == 3


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("5", int, 5),
        ("-1", int, -1),
        ("30_000", int, 30000),
        ("5", float, 5.0),
        ("1e-3", float, 0.001),
        ("-.5", float, -0.5),
        ("true", bool, True),
        ("False", bool, False),
        ("5", str, "5"),
        ("", str, ""),
        ("a=b --c", str, "a=b --c"),
        ("('a',)", tuple, ("a",)),
        ("['a', 'b [MASK]']", tuple, ("a", "b [MASK]")),
        ("()", tuple, ()),
    ],
)
def test_read_value(text, kind, value):
    result = overrides.read_value("config.x", text, kind)
    assert result == value
    assert type(result) is kind


@pytest.mark.parametrize(
    ("text", "kind", "allowed"),
    [
        ("", int, "a whole number"),
        ("1.0", int, "a whole number"),
        ("True", int, "a whole number"),
        ("x", int, "a whole number"),
        ("__import__('os')", int, "a whole number"),
        ("(" * 5000, int, "a whole number"),
        ("nan", float, "a finite number"),
        ("inf", float, "a finite number"),
        ("1e999", float, "a finite number"),
        ("True", float, "a finite number"),
        ("1", bool, "true or false"),
        ("yes", bool, "true or false"),
        ("a", tuple, "a list of strings"),
        ("('a')", tuple, "a list of strings"),
        ("['a', 1]", tuple, "a list of strings"),
    ],
)
def test_read_value_refuses(text, kind, allowed):
    with pytest.raises(ValueError) as error:
        overrides.read_value("config.x", text, kind)
    assert str(error.value).startswith(f"--config.x={text} must be {allowed}")


@pytest.mark.parametrize(
    ("name", "guess"),
    [
        ("config.train.num_step", "config.train.num_steps"),
        ("config.trian.num_steps", "config.train.num_steps"),
        (
            "config.train.learning_rate",
            "config.optimizer.learning_rate or config.finetune.learning_rate",
        ),
        (
            "train.num_steps",
            "config.train.num_steps or config.finetune.num_steps or"
            " config.inspect.num_steps",
        ),
        ("config.train.warmup_steps", "config.optimizer.warmup_steps"),
        ("config.modl", "config.model"),
        ("config.seed.x", "config.seed"),
        ("worckdir", "workdir"),
    ],
)
def test_unknown_name_suggests_the_nearest(name, guess):
    message = overrides.unknown_name(name, flags=["workdir"])
    assert message.startswith(f"{name} does not exist; did you mean {guess}? ")


@pytest.mark.parametrize(
    ("name", "rest"),
    [
        ("zzz", "does not exist; the flags are workdir, config.section.field."),
        (
            "config.checkpoint.zzz",
            "does not exist; the fields of config.checkpoint are every_steps,"
            " keep_last, best_by, allow_changed.",
        ),
        (
            "config.checkpoint",
            "is a section; its fields are every_steps, keep_last, best_by,"
            " allow_changed.",
        ),
        ("", "does not exist; the flags are workdir, config.section.field."),
    ],
)
def test_unknown_name_lists_what_there_is(name, rest):
    message = overrides.unknown_name(name, flags=["workdir"])
    assert message == f"{name} {rest}"


def test_a_missing_file_suggests_its_neighbour(tmp_path):
    write(tmp_path, "return schema.defaults()")
    message = message_of(str(tmp_path / "mime.py"))
    assert "mime.py is not a file" in message
    assert message.endswith(f", such as {tmp_path / 'mine.py'}.")


def test_the_record_of_a_run_is_a_config(tmp_path):
    before = overrides.load_config(
        SAMPLE,
        changes={
            "config.train.num_steps": "7",
            "config.evaluation.sentences": "['a [MASK]']",
        },
    )
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"config": before.to_dict(), "resolved": {}}))
    assert overrides.load_config(str(path), changes={}) == before
    after = overrides.load_config(str(path), changes={"config.seed": "3"})
    assert after == dataclasses.replace(before, seed=3)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"config": {"sede": 1}}', '{"config": 3}']
)
def test_another_json_file_is_no_config(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    message = message_of(str(path))
    assert message.startswith(f"--config={path} is not the config.json of a")


def test_a_folder_is_not_a_file(tmp_path):
    assert "is not a file; name a Python file" in message_of(str(tmp_path))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "fails at line 3: ZeroDivisionError: division by"),
        ("return (", "fails at line 3: SyntaxError: "),
        ("c = schema.defaults()\nc.trian.seed = 1", "fails at line 4: Attrib"),
        ("c = schema.defaults()\nc.seed = 1.5", "fails at line 4: TypeError: "),
        ("return {}", "get_config() returned a dict; return schema.defaults("),
        ("pass", "get_config() returned a NoneType; return schema.defaults()"),
    ],
)
def test_a_broken_file_is_named(tmp_path, body, message):
    path = write(tmp_path, body)
    assert message_of(path).startswith(f"--config={path}")
    assert message in message_of(path)


def test_a_file_that_cannot_be_imported_is_named(tmp_path):
    path = write(tmp_path, "pass", head="import no_such_module\n")
    assert "fails at line 1: ModuleNotFoundError" in message_of(path)


def test_a_file_without_get_config_is_named(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("config = 3\n")
    assert f"--config={path} lacks get_config()" in message_of(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("train.num_step = 5", "did you mean config.train.num_steps?"),
        ("data.path = None", "config.data.path=None must be text"),
        ("seed = True", "config.seed=True must be a whole number"),
        (
            "optimizer.learning_rate = float('inf')",
            "config.optimizer.learning_rate=inf must be a finite number",
        ),
        (
            "evaluation.sentences = ('a', 1)",
            "config.evaluation.sentences=('a', 1) must be a list of strings",
        ),
    ],
)
def test_a_bad_value_in_the_file_is_named(tmp_path, change, message):
    path = write(tmp_path, f"c = schema.defaults()\nc.{change}\nreturn c")
    assert f"--config={path}: " in message_of(path)
    assert message in message_of(path)


def test_a_config_that_does_not_start_from_the_defaults_is_refused(tmp_path):
    path = write(
        tmp_path,
        "return ml_collections.ConfigDict({'seed': 1})",
        head="import ml_collections\n",
    )
    assert "is missing; let get_config() start from" in message_of(path)
