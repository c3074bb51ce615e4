"""BERT to and from the folders of other libraries."""

from trainer.modeling.interchange.folders import read_bert, write_folders
from trainer.modeling.interchange.huggingface import (
    read_json,
    write_huggingface,
)
from trainer.modeling.interchange.keras_hub import (
    why_not_keras_hub,
    write_keras_hub,
)

__all__ = [
    "read_bert",
    "read_json",
    "why_not_keras_hub",
    "write_folders",
    "write_huggingface",
    "write_keras_hub",
]
