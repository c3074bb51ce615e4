"""Models that take strings, tiny and untrained, and an export of theirs."""

import dataclasses

import numpy as np
import pytest

import storage
from configs import schema
from trainer import modeling
from trainer.serving import loading, saved_model

LETTERS = [f"w{n}" for n in range(20)]
_WORDS = ["", "[UNK]", *LETTERS, "[mask]"]
_VOCABULARIES = {
    "word": _WORDS,
    "unicode_word": _WORDS,
    "wordpiece": ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS],
}


@pytest.fixture(scope="session")
def create(tmp_path_factory):
    """A function: kind and changes -> (classifier, masked-LM, export)."""

    def make(kind, *, labels, model=(), finetune=(), num_ngrams=0):
        shape = {
            "num_layers": 1,
            "hidden_size": 8,
            "num_heads": 2,
            "intermediate_size": 8,
            "initializer_range": 0.5,
        }
        common = {
            "kind": kind,
            "vocabulary": _VOCABULARIES[kind],
            "sequence_length": 8,
            "model": dataclasses.asdict(
                schema.ModelConfig(**{**shape, **dict(model)})
            ),
        }
        classifier = modeling.TextClassifier(
            **common,
            labels=labels,
            finetune=dataclasses.asdict(
                schema.FinetuneConfig(**dict(finetune))
            ),
            num_ngrams=num_ngrams,
        )
        if num_ngrams:  # The words from w0 on, each for one class.
            first = classifier.codec.vocabulary.index("w0")
            numbers = np.arange(num_ngrams)
            head = classifier.ngrams
            head.keys.assign(first + numbers)
            head.scales.assign(1.0 + numbers)
            head.coefficients.assign(
                np.eye(num_ngrams, classifier.num_logits) - 0.5
            )
            classifier.mixture.assign(np.ones(classifier.mixture.shape))
        masked_lm = modeling.TextMaskedLM(**common, max_masks=2, top_k=3)
        directory = tmp_path_factory.mktemp(kind) / "export"
        facts = {"format": loading.FORMAT, "tokenizer": kind}
        with storage.new_directory(directory, facts=facts) as temporary:
            facts["signatures"] = saved_model.save(
                temporary, classifier=classifier, masked_lm=masked_lm
            )
        return classifier, masked_lm, directory

    return make
