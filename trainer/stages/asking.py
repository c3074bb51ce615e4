"""What an export answers to the documents of the test split."""

import dataclasses
import itertools
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from input_pipeline import held_out, label_sets
from trainer.report import statistics
from trainer.run import Run

# What answers alone -> its output of `classify`.
_OUTPUTS = {
    "both": "probabilities",
    "encoder": "encoder_probabilities",
    "n-grams": "ngram_probabilities",
}
_NUM_WORST = 20  # Documents that are shown.
_SORTED_BATCHES = 16  # Among these many batches texts are sorted by length.


@dataclasses.dataclass(frozen=True)
class Answers:
    """What a classifier says to N test documents, in their order.

    Attributes:
      counts: of all test documents.
      labels: int64 [N], or bool [N, C] where there may be several.
      digests: uint64 [N], of the clean texts.
      worst: the wrong answers with the least probability of the labels, the
        worst first: place of the document -> its raw text.
      parts: float32 [N, C] by who answers; "both" is the classifier.
      confidences: float32 [N], of the answer.
      is_decided: bool [N, C], the classes that are decided.
      seconds: spent by the model.
    """

    counts: held_out.Counts
    labels: np.ndarray
    digests: np.ndarray
    worst: dict[int, bytes]
    parts: dict[str, np.ndarray]
    confidences: np.ndarray
    is_decided: np.ndarray
    seconds: float


def ask(
    run: Run,
    classify: Callable[..., dict[str, tf.Tensor]],
    names: list[str],
    multilabel: bool,
) -> Answers:
    """Asks in batches of texts of similar lengths."""
    size = run.config.predict.batch_size
    counts, seconds = held_out.Counts(), 0.0
    labels, digests, worst = [], [], []
    outputs: dict[str, list[np.ndarray]] = {}
    examples = held_out.known(
        held_out.examples(run.corpus, counts), names, multilabel=multilabel
    )
    while window := list(itertools.islice(examples, size * _SORTED_BATCHES)):
        for example in window:
            labels.append(_classes(example.label, names, multilabel))
            digests.append(int.from_bytes(example.digest))
        start = time.perf_counter()
        order = np.argsort([len(e.raw) for e in window], kind="stable")
        answers = [
            classify(text=tf.constant([window[i].raw for i in batch]))
            for batch in np.split(order, [*range(size, len(order), size)])
        ]
        for key in answers[0]:
            found = np.concatenate([a[key].numpy() for a in answers])
            outputs.setdefault(key, []).append(found[np.argsort(order)])
        seconds += time.perf_counter() - start
        first, rates = len(labels) - len(window), outputs["probabilities"][-1]
        truth = _truth(labels[first:], names, multilabel)
        is_wrong = ~statistics.right_documents(truth, rates)
        sure = statistics.true_probabilities(truth, rates).prod(axis=1)
        worst += [
            (sure[i], first + int(i), window[i].raw)
            for i in np.flatnonzero(is_wrong)
        ]
        worst = sorted(worst)[:_NUM_WORST]
    none = [np.zeros([0, len(names)])]
    rates = np.concatenate(outputs.get("probabilities", none))
    # Older exports have no confidence and no decision.
    confidences = outputs.get("confidence", [rates.max(axis=1)])
    decided = [
        _classes(decision.decode(), names, multilabel)
        for some in outputs.get("decision", ())
        for decision in some
    ]
    return Answers(
        counts,
        _truth(labels, names, multilabel),
        np.array(digests, np.uint64),
        {i: raw for _, i, raw in worst},
        {
            name: np.concatenate(outputs[key])
            for name, key in _OUTPUTS.items()
            if key in outputs
        },
        np.concatenate(confidences),
        np.array(decided),
        seconds,
    )


def _truth(
    labels: list[np.ndarray], names: list[str], multilabel: bool
) -> np.ndarray:
    """bool [N, C] where there may be several labels, else int [N]."""
    found = np.array(labels, bool).reshape(-1, len(names))
    return found if multilabel else found.argmax(axis=1)


def _classes(label: str, names: list[str], multilabel: bool) -> np.ndarray:
    """Which classes a label stands for, bool [C]; none for `UNSURE`."""
    found = label_sets.split(label) if multilabel else (label,)
    return np.array([name in found for name in names])
