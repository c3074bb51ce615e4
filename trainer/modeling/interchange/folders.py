"""The folders of other libraries: telling which one it is, writing them all."""

import pathlib
from collections.abc import Sequence

from trainer.modeling import heads
from trainer.modeling.initial import Initial
from trainer.modeling.interchange import bert, huggingface, keras_hub

# Name of the folder -> why not, and what writes it.
_FOLDERS = {
    "huggingface": (bert.why_not_bert, huggingface.write_huggingface),
    "keras_hub": (keras_hub.why_not_keras_hub, keras_hub.write_keras_hub),
}


def read_bert(directory: str | pathlib.Path) -> Initial:
    """A BERT from a Hugging Face folder or a KerasHub preset folder.

    Raises:
      ValueError: the folder holds something else; says what.
    """
    directory = pathlib.Path(directory)
    config = huggingface.read_json(directory / "config.json")
    if "registered_name" in config or "class_name" in config:
        return keras_hub.read_keras_hub(directory)
    if "model_type" in config or "architectures" in config:
        return huggingface.read_huggingface(directory)
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
) -> dict[str, str]:
    """Writes `huggingface/` and `keras_hub/` where they can hold the model.

    Args:
      directory: where the folders lie.
      model: with the weights to write.
      vocabulary: the tokens by id.
      kind: of the vocabulary, such as "wordpiece".

    Returns:
      For every folder why it has not been written; "" = it has.
    """
    reasons = {}
    for name, (why_not, write) in _FOLDERS.items():
        reason = why_not(model.encoder.model_config)
        if kind != "wordpiece":
            word = f"tokenizer.kind={kind} (BERT: wordpiece)"
            reason = f"{word}, {reason}" if reason else word
        if not reason:
            write(directory / name, model, vocabulary)
        reasons[name] = reason
    return reasons
