"""BERT to and from the folders of other libraries."""

import pathlib

from trainer.modeling.initial import Initial
from trainer.modeling.interchange.bert import why_not_bert, with_padding_first
from trainer.modeling.interchange.huggingface import (
    read_huggingface,
    read_json,
    write_huggingface,
)
from trainer.modeling.interchange.keras_hub import (
    read_keras_hub,
    why_not_keras_hub,
    write_keras_hub,
)

__all__ = [
    "read_bert",
    "read_json",
    "why_not_bert",
    "why_not_keras_hub",
    "write_huggingface",
    "write_keras_hub",
]


def read_bert(directory: str | pathlib.Path) -> Initial:
    """A BERT from a Hugging Face folder or a KerasHub preset folder.

    Raises:
      ValueError: the folder holds something else; says what.
    """
    directory = pathlib.Path(directory)
    config = read_json(directory / "config.json")
    if "registered_name" in config or "class_name" in config:
        return with_padding_first(read_keras_hub(directory))
    if "model_type" in config or "architectures" in config:
        return with_padding_first(read_huggingface(directory))
    raise ValueError(
        f"{directory} is neither a KerasHub preset nor a Hugging Face model:"
        " its config.json has no registered_name and no model_type."
    )
