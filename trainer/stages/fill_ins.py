"""Shows the likeliest words for each [MASK] of some sentences."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from input_pipeline import tokenizer as tokenizer_lib
from trainer import modeling

_MOST = 20  # How often in a run; more would bury all other output.


class FillIns(keras.callbacks.Callback):
    """Prints after every epoch what the model fills in.

    A run of more than 20 epochs prints it after every n-th and the last.

    Args:
      sentences: texts with [MASK] in them.
      tokenizer: the tokenizer of the model.
      top_k: number of words shown for each mask.
      record: called with the step and an event for metrics.jsonl.
    """

    def __init__(
        self,
        sentences: Sequence[str],
        tokenizer: tokenizer_lib.Tokenizer,
        *,
        top_k: int,
        record: Callable[[int, dict[str, Any]], None],
    ):
        super().__init__()
        self._sentences = sentences
        self._top_k = top_k
        self._tokenizer = tokenizer
        self._record = record
        self._steps_of_epoch = 0  # 0 if a resumed run begins at its end.

    def on_train_batch_end(
        self, batch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Counts the steps, because the last epoch may be shorter."""
        self._steps_of_epoch = batch + 1

    def on_epoch_end(
        self, epoch: int, logs: dict[str, Any] | None = None
    ) -> None:
        """Prints text, completed text, probability and token."""
        number, epochs = epoch + 1, self.params["epochs"]
        if number % -(-epochs // _MOST) and number < epochs:
            return
        found = []
        for sentence in self._sentences:
            masks = fill_in(
                self.model, self._tokenizer, sentence, top_k=self._top_k
            )
            _print(sentence, masks)
            found.append({"text": sentence, "masks": masks})
        steps = self.params["steps"]
        step = epoch * steps + (self._steps_of_epoch or steps)
        self._record(step, {"event": "fill_ins", "fill_ins": found})


def _print(sentence: str, masks: list[list[tuple[str, float]]]) -> None:
    print(f"  {sentence}")
    parts = sentence.split(tokenizer_lib.MASK)
    for number, masked in enumerate(masks, start=1):
        before, after = (
            tokenizer_lib.MASK.join(some)
            for some in (parts[:number], parts[number:])
        )
        for token, probability in masked:
            completed = f"{before}{token.removeprefix('##')}{after}"
            print(f"    {probability:.3f}  {token:<14} {completed}")


def fill_in(
    model: Any,
    tokenizer: tokenizer_lib.Tokenizer,
    sentence: str,
    *,
    top_k: int,
) -> list[list[tuple[str, float]]]:
    """The likeliest tokens for each mask, and their probabilities.

    Args:
      model: a masked language model.
      tokenizer: its tokenizer.
      sentence: text with masks; it is cut to the length of a row.
      top_k: number of tokens for each mask, without special ones.

    Returns:
      A list for each mask, the likeliest token first.
    """
    ids = tokenizer.encode_prompt(sentence)[: model.encoder.sequence_length]
    positions = np.flatnonzero(ids == tokenizer.special.mask)
    if not len(positions):
        return []
    batch = modeling.features(tf.constant(ids[np.newaxis]))
    batch["mask_positions"] = tf.constant(positions[np.newaxis], tf.int32)
    # As a tf.function it would be traced anew for each length of a sentence.
    logits = model(batch)[0]  # [M, V]
    # Padding, unknown and other special tokens are not answers.
    is_special = tokenizer.is_special
    logits = tf.where(is_special, -np.inf, logits)
    k = min(top_k, np.count_nonzero(~is_special))
    values, tokens = tf.math.top_k(tf.nn.softmax(logits), k=k)
    return [
        [
            (tokenizer.vocabulary[token], float(value))
            for token, value in zip(*pair, strict=True)
        ]
        for pair in zip(tokens.numpy(), values.numpy(), strict=True)
    ]
