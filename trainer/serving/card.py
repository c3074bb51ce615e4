"""The model card: what was exported, from what, how good, how to load it."""

import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import storage

FILE = "README.md"
_Facts = Mapping[str, Any]
# An underscore inside a word marks nothing in Markdown.
_MARKS = re.compile(r"[\\`*{}\[\]()#|~$!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_NOT_EVALUATED = "Not evaluated yet: `--mode=evaluate` writes them here."
_FOLDERS = {
    "huggingface": (
        "the part that fills in",
        "import transformers\n\n"
        'fill_mask = transformers.pipeline("fill-mask", model="huggingface")\n',
    ),
    "keras_hub": (
        "the encoder of that part, without its head",
        "import keras_hub\n\n"
        'encoder = keras_hub.models.Backbone.from_preset("keras_hub")\n',
    ),
}


def write_card(
    facts: _Facts,
    metrics: Mapping[str, _Facts],
    tables: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> str:
    """The text of README.md.

    Args:
      facts: what the manifest says, see `trainer/commands/export.py`.
      metrics: stage to numbers by name. "pretrain" and "finetune" are the
        validation of the stages; "test", which `--mode=evaluate` adds, goes
        into a place of its own.
      tables: of the test split, title -> rows of cells with a header; from
        `--mode=evaluate`, too.
    """
    parts = [
        "# A text model made with Cloze",
        _answers(facts),
        "## Data",
        _data(facts),
        "## Training",
        _training(facts, metrics),
        "## Results",
        "<!-- evaluate: begin -->",
        _table(metrics.get("test", {})) or _NOT_EVALUATED,
        *(
            f"{title}:\n\n{_grid(rows)}"
            for title, rows in (tables or {}).items()
        ),
        "<!-- evaluate: end -->",
        "## Limits",
        _limits(facts),
        "## How to load it",
        _loading(facts),
    ]
    return "\n\n".join(parts) + "\n"


def rewrite_card(
    directory: str | pathlib.Path,
    metrics: Mapping[str, _Facts],
    tables: Mapping[str, Sequence[Sequence[str]]],
) -> None:
    """Writes README.md of an export again; raises DamagedError."""
    facts = storage.read_manifest(directory)
    text = write_card(facts, metrics, tables)
    storage.replace_file(directory, FILE, text.encode())


def _answers(facts: _Facts) -> str:
    what = {
        "classify": (
            "`classify`: the classes of a text, any of "
            if facts.get("multilabel")
            else "`classify`: the class of a text, one of "
        )
        + ", ".join(f'"{_escaped(label)}"' for label in facts["labels"]),
        "explain": "`explain`: what each word of a text contributes to the"
        " log-odds of its class against the second",
        "embed": f"`embed`: {facts['hidden_size']} numbers for a text, the mean"
        f" of the final states of the {facts['embed_stage']} encoder",
        "fill_mask": f"`fill_mask`: the {facts['top_k']} best tokens for each"
        f" of the first {facts['max_masks']} `[MASK]` of a text",
    }
    lines = [f"- {what[name]}" for name in facts["signatures"]]
    missing = [name for name in what if name not in facts["signatures"]]
    if missing:
        names = " and ".join(f"`{name}`" for name in missing)
        lines.append(f"- not {names}: the run has not been trained for it")
    sizes = [f"`{k}` {v:,}" for k, v in facts["parameters"].items()]
    head = f"Strings in, answers out. Parameters: {', '.join(sizes)}."
    return "\n".join([head, "", *lines])


def _data(facts: _Facts) -> str:
    data = facts["config"]["data"]
    place = data["name"] or data["path"]
    numbers: dict[str, Any] = {
        "source": " ".join(filter(None, (data["source"], place)))
    }
    for stage, report in facts["reports"].items():
        read = report.get("read", {})
        for name in ("documents_read", "documents_kept"):
            if name in read:
                numbers[f"{stage}: {name.replace('_', ' ')}"] = read[name]
        for role, rows in report.get("rows", report).items():
            for name in ("documents", "tokens_kept", "tokens_cut"):
                key = f"{stage}: {role} {name.replace('_', ' ')}"
                numbers[key] = rows[name]
        numbers[f"{stage}: fingerprint"] = facts["fingerprints"][stage]
    numbers["tokenizer"] = (
        f"{facts['tokenizer']}, {facts['vocabulary_size']:,} tokens"
    )
    return _table(numbers)


def _training(facts: _Facts, metrics: Mapping[str, _Facts]) -> str:
    parts = []
    for stage, checkpoint in facts["checkpoints"].items():
        parts.append(
            f"Stage `{stage}`: the best checkpoint by validation"
            f" {checkpoint.get('best_by', 'loss')}"
        )
        parts.append(_table({**checkpoint, **_last(metrics.get(stage, {}))}))
    sections = ("model", "masking", "optimizer", "train", "finetune")
    settings = {
        f"{section}.{name}": value
        for section in sections
        for name, value in facts["config"][section].items()
    }
    versions = {f"version of {k}": v for k, v in facts["versions"].items()}
    return "\n\n".join([*parts, "Configuration:", _table(settings | versions)])


def _last(metrics: _Facts) -> dict[str, Any]:
    return {f"last validation: {k}": v for k, v in metrics.items()}


def _limits(facts: _Facts) -> str:
    length = facts["sequence_length"]
    lines = [
        "It has seen the data above and nothing else: text of another kind or"
        " language gives answers, but not good ones.",
        "A fill-in is what is likely in such text, not what is true.",
        f"`fill_mask` sees at most {length} slots around the masks; `embed`"
        " reads the whole text.",
        "An empty text gets an answer too, which means nothing.",
    ]
    if "classify" in facts["signatures"]:
        lines.append(
            f"`classify` reads the first {facts['max_pieces']} pieces of"
            f" {length} slots of a text and no more; `unread` counts the tokens"
            " behind them."
        )
    return "\n".join(f"- {line}" for line in lines)


def _loading(facts: _Facts) -> str:
    name = facts["signatures"][0]
    parts = [
        "Every file's sha256 is in `manifest.json`; `python -m trainer.main"
        " --mode=predict --config.predict.export_dir=DIRECTORY` checks them"
        " first. Run the following in this directory."
    ]
    parts.append("`saved_model/` needs TensorFlow and nothing else:")
    parts.append(
        "```python\nimport tensorflow as tf\n\n"
        'model = tf.saved_model.load("saved_model")\n'
        f'answers = model.signatures["{name}"](text=tf.constant(["a text"]))\n'
        "```"
    )
    for file in facts["parameters"]:
        parts.append(
            f"`{file}` needs Keras and Cloze, whose repository has to be on"
            " PYTHONPATH:"
        )
        parts.append(
            "```python\nimport keras\nimport tensorflow as tf\n"
            "import trainer.modeling\n\n"
            f'model = keras.saving.load_model("{file}")\n'
            'answers = model(tf.constant(["a text"]))\n```'
        )
    for folder, why_not in facts.get("folders", {}).items():
        if not why_not:
            what, code = _FOLDERS[folder]
            parts.append(f"`{folder}/`, {what}:")
            parts.append(f"```python\n{code}```")
    return "\n\n".join(parts)


def _table(values: _Facts) -> str:
    """Two columns; "" if there is nothing to show."""
    if not values:
        return ""
    rows = [(name, _number(value)) for name, value in values.items()]
    return _grid([("what", "value"), *rows])


def _grid(rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table whose first row is the header."""
    header, *others = (
        f"| {' | '.join(map(_escaped, cells))} |" for cells in rows
    )
    return "\n".join([header, f"|{'---|' * len(rows[0])}", *others])


def _number(value: Any) -> str:
    """A value as text, numbers in the form that people read."""
    if isinstance(value, float):
        return f"{value:.6g}"
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return f"{value:,}" if is_count else str(value)


def _escaped(text: str) -> str:
    """One line of text that neither Markdown nor HTML interprets."""
    line = " ".join(text.split())
    # Entities instead of `html.escape`: quotation marks can stay.
    for mark, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        line = line.replace(mark, entity)
    return _MARKS.sub(r"\\\g<0>", line)
