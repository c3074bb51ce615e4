"""BERT to and from the folders of other libraries."""

import pathlib
from collections.abc import Sequence

from trainer.modeling import heads
from trainer.modeling.initial import Initial, read_json
from trainer.modeling.interchange.bert import why_not_bert
from trainer.modeling.interchange.huggingface import (
    read_huggingface,
    write_huggingface,
)
from trainer.modeling.interchange.keras_hub import (
    read_keras_hub,
    why_not_keras_hub,
    write_keras_hub,
)

# Name of the folder -> why it cannot hold a model, and what writes it.
_FOLDERS = {
    "huggingface": (why_not_bert, write_huggingface),
    "keras_hub": (why_not_keras_hub, write_keras_hub),
}


def read_bert(directory: str | pathlib.Path) -> Initial:
    """A BERT from a Hugging Face folder or a KerasHub preset folder.

    Raises:
      ValueError: the folder holds something else; says what.
    """
    directory = pathlib.Path(directory)
    config = read_json(directory / "config.json")
    if "registered_name" in config or "class_name" in config:
        return read_keras_hub(directory)
    if "model_type" in config or "architectures" in config:
        return read_huggingface(directory)
    raise ValueError(
        f"{directory} is neither a KerasHub preset nor a Hugging Face model:"
        " its config.json has no registered_name and no model_type."
    )


def write_folders(
    directory: pathlib.Path,
    model: heads.MaskedLM,
    vocabulary: Sequence[str],
    *,
    kind: str,
    lowercase: bool = True,
) -> dict[str, str]:
    """Writes `huggingface/` and `keras_hub/` where they can hold the model.

    Args:
      directory: the parent of the folders.
      model: with the weights to write.
      vocabulary: the tokens by id.
      kind: of the vocabulary, such as "wordpiece".
      lowercase: whether case and accents are dropped.

    Returns:
      For each folder the reason why it was not written; "" = it was.
    """
    reasons = {}
    for name, (why_not, write) in _FOLDERS.items():
        wrong = [why_not(model.encoder.model_config)]
        if kind != "wordpiece":
            wrong.insert(0, f"tokenizer.kind={kind} (BERT: wordpiece)")
        reasons[name] = ", ".join(filter(None, wrong))
        if not reasons[name]:
            write(directory / name, model, vocabulary, lowercase=lowercase)
    return reasons
