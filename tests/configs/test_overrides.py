"""Tests of configs/overrides.py."""

import dataclasses
import json
import operator
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


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: path.stem)
def test_every_run_file_of_the_project_loads(path):
    assert isinstance(
        overrides.load_config(str(path), changes={}), schema.Config
    )


def test_overrides_win_over_the_file_and_are_checked_last(tmp_path):
    path = write(
        tmp_path,
        "c = schema.defaults()\n"
        "c.model.num_heads = 3\n"  # Wrong, until the command line mends it.
        "c.optimizer.warmup_steps = c.train.get_ref('num_steps') * 2\n"
        "return c",
    )
    assert "multiple of" in message_of(path)
    config = overrides.load_config(
        path,
        changes={"config.model.num_heads": "2", "config.train.num_steps": "5"},
    )
    assert config.model.num_heads == 2
    assert config.optimizer.warmup_steps == 10


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("seed", "0", 0),
        ("optimizer.learning_rate", "1", 1.0),
        ("optimizer.learning_rate", "1e-3", 0.001),
        ("masking.final_select_rate", "-1", -1.0),
        ("model.token_types", "true", True),
        ("data.text_field", "", ""),
        ("data.text_field", "a=b --c", "a=b --c"),
        ("evaluation.sentences", "['a', 'b [MASK]']", ("a", "b [MASK]")),
        ("evaluation.sentences", "()", ()),
    ],
)
def test_a_value_is_read_as_the_type_of_its_field(name, text, value):
    config = overrides.load_config(SAMPLE, changes={f"config.{name}": text})
    found = operator.attrgetter(name)(config)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "text", "allowed"),
    [
        ("seed", "", "a whole number"),
        ("seed", "True", "a whole number"),
        ("seed", "(" * 5_000, "a whole number"),
        ("train.minutes", "nan", "a finite number"),
        ("train.minutes", "1e999", "a finite number"),
        ("model.token_types", "yes", "true or false"),
        ("evaluation.sentences", "['a', 1]", "a list of strings"),
    ],
)
def test_a_value_of_another_type_is_refused(name, text, allowed):
    message = message_of(SAMPLE, **{f"config.{name}": text})
    assert f"config.{name}=" in message
    assert allowed in message


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
        ("config.modl", "config.model"),
        ("config.seed.x", "config.seed"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name, guess):
    assert message_of(SAMPLE, **{name: "1"}).startswith(
        f"--{name} does not exist; did you mean {guess}? "
    )


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
    "content",
    [
        "",
        '{"config": {"sede": 1}}',
        '{"config": []}',
        "[" * 20_000,
    ],
)
def test_another_json_file_is_no_config(tmp_path, content):
    path = tmp_path / "config.json"
    path.write_text(content)
    message = message_of(str(path))
    assert message.startswith(f"--config={path} is not the config.json of a")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return 1 / 0", "fails at line 3: ZeroDivisionError: division by"),
        ("return (", "fails at line 3: SyntaxError: "),
        ("import no_such", "fails at line 3: ModuleNotFoundError"),
        ("c = schema.defaults()\nc.trian.seed = 1", "fails at line 4: Attrib"),
        (
            "c = schema.defaults().lock()\nc.seed = 1.5",
            "fails at line 4: TypeError: ",
        ),
        (
            "return {}",
            "get_config() returned a dict; define get_config(), and ret",
        ),
    ],
)
def test_a_broken_file_is_named(tmp_path, body, message):
    path = write(tmp_path, body)
    assert message_of(path).startswith(f"--config={path}")
    assert message in message_of(path)


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
