"""Models that take strings: tokenizer, pieces, encoder and head in one.

N texts, L slots, C classes, K logits of a text, V vocabulary.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf

from configs import schema
from input_pipeline import strings
from trainer.modeling import classifier as classifiers
from trainer.modeling import encoder as encoders
from trainer.modeling import ngram_head, pieces

# The decision on a text whose class is not sure enough.
UNSURE = "unsure"


class TextModel(keras.Model):
    """What these models share: a codec, float32, a plain config."""

    def __init__(
        self,
        *,
        kind: str,
        lowercase: bool = True,
        vocabulary: Sequence[str],
        sequence_length: int,
        model: Mapping[str, Any],
        name: str,
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, dtype="float32", **kwargs)
        self.codec = strings.Codec(kind, vocabulary, lowercase=lowercase)
        self.sequence_length = sequence_length
        self.room = sequence_length - self.codec.special.num_wrapping
        self.model_config = schema.ModelConfig(**model)

    @property
    def encoder(self) -> encoders.Encoder:
        """The part that computes the states."""
        raise NotImplementedError

    def rows(self, ids: tf.RaggedTensor) -> dict[str, tf.Tensor]:
        """`pieces.batch` for this encoder."""
        return pieces.batch(
            ids,
            self.codec.special,
            length=pieces.row_length(self.encoder),
        )

    def embed(self, text: tf.Tensor) -> tf.Tensor:
        """Raw strings [N] -> float32 [N, D]; see `pieces.embed`."""
        ids = self.codec.document_ids(strings.clean(text))
        return pieces.embed(self.encoder, ids, self.codec.special)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            "name": self.name,
            "kind": self.codec.kind,
            "lowercase": self.codec.lowercase,
            "vocabulary": self.codec.vocabulary,
            "sequence_length": self.sequence_length,
            "model": dataclasses.asdict(self.model_config),
        }


@keras.saving.register_keras_serializable("cloze")
class TextClassifier(TextModel):
    """Raw strings [N] to the probabilities of C classes.

    Two parts give K logits each (1 for two classes, else C): the encoder with
    its head, and the n-grams. The answer is their weighted sum, whose weights
    were fitted on validation. Either part may be missing. With several labels
    (`multilabel`), K is C, and every class has a probability of its own.

    Attributes:
      classifier: encoder and head; None where `finetune.encoder` is False.
      ngrams: None where `num_ngrams` is 0.
      mixture: the weights of the parts, then the bias; None where the encoder
        alone answers, as it was trained.
      thresholds: float32 [C], the confidences from which on the classes are
        decided; None where `finetune.min_precision` is 0 and all are.
    """

    def __init__(
        self,
        *,
        labels: Sequence[str],
        finetune: Mapping[str, Any],
        multilabel: bool = False,
        num_ngrams: int = 0,
        class_weights: Sequence[float] = (),
        name: str = "text_classifier",
        **kwargs: Any,
    ) -> None:
        """Makes the model with random weights.

        Args:
          labels: the names of the C classes, in order.
          finetune: the fields of `schema.FinetuneConfig`.
          multilabel: whether a text may have several of them, or none.
          num_ngrams: G; 0 = the encoder answers alone.
          class_weights: by which the documents of the C classes counted in
            training and validation; () = alike.
          name: of the Keras model.
          kwargs: `kind`, `lowercase` and `vocabulary` of the tokenizer,
            `sequence_length` (L), and `model`, the fields of
            `schema.ModelConfig`.
        """
        super().__init__(name=name, **kwargs)
        self.labels = list(labels)
        self.finetune = schema.FinetuneConfig(**finetune)
        self.num_ngrams = num_ngrams
        self.multilabel = multilabel
        self.num_logits = classifiers.num_logits(
            len(labels), multilabel=multilabel
        )
        self.class_weights = [*map(float, class_weights)]
        self.classifier = self.ngrams = self.mixture = self.thresholds = None
        if self.finetune.encoder:
            self.classifier = classifiers.create_classifier(
                self.model_config,
                self.finetune,
                vocabulary_size=len(self.codec.vocabulary),
                sequence_length=self.sequence_length,
                num_classes=len(self.labels),
                multilabel=multilabel,
                dtype="float32",
            )
        if num_ngrams:
            self.ngrams = ngram_head.NGramHead(
                num_ngrams, self.num_logits, is_special=self.codec.is_special
            )
        if num_ngrams or self.finetune.min_precision:
            num_parts = bool(num_ngrams) + (self.classifier is not None)
            self.mixture = self.add_weight(
                shape=(num_parts + self.num_logits,),
                initializer="zeros",
                trainable=False,
                name="mixture",
            )
        if self.finetune.min_precision:
            self.thresholds = self.add_weight(
                shape=(len(self.labels),),
                initializer="zeros",
                trainable=False,
                name="thresholds",
            )
        self.built = True

    @property
    def encoder(self) -> encoders.Encoder:
        """The fine-tuned one."""
        assert self.classifier is not None, "n-grams alone have no encoder"
        return self.classifier.encoder

    @property
    def max_pieces(self) -> int:
        """Pieces of L slots that are read; the rest is cut, as in training."""
        return self.finetune.pieces_per_row

    def call(self, text: tf.Tensor) -> tf.Tensor:
        """Raw strings [N] -> float32 [N, C]."""
        return self.classify(text)["probabilities"]

    def classify(self, text: tf.Tensor) -> dict[str, tf.Tensor]:
        """The classes of raw strings [N].

        Returns:
          `probabilities`: float32 [N, C].
          `label`: string [N], the likeliest.
          `confidence`: float32 [N], the calibrated probability of `label`; see
            `calibrated`.
          `decision`: string [N], `label` where the confidence reaches the
            threshold of this class, else `UNSURE`.
          `unread`: int32 [N], the tokens of a text after its last piece.
          `encoder_probabilities`, `ngram_probabilities`: float32 [N, C], the
            answer of each part alone, if there are two.

        With several labels, `label` lists the classes of a probability of at
        least 0.5, see `classifier.joined`; `confidence` is that of the
        whole list, were the classes independent; `decision` lists the classes
        that reach their threshold.
        """
        ids = self.codec.document_ids(strings.clean(text))
        most = self.max_pieces * self.room
        parts = {
            f"{name}_probabilities": logits
            for name, logits in self._parts(ids[:, :most]).items()
        }
        rates = self.probabilities(self.mixed([*parts.values()]))
        if self.multilabel:
            label = classifiers.joined(rates >= 0.5, self.labels)
            confidence = tf.reduce_prod(tf.maximum(rates, 1 - rates), axis=-1)
            limits = 0.5 if self.thresholds is None else self.thresholds
            decision = classifiers.joined(rates >= limits, self.labels)
        else:
            place = tf.argmax(rates, axis=-1)
            label = decision = tf.gather(self.labels, place)
            confidence = tf.gather(self.calibrated(rates), place, batch_dims=1)
            if self.thresholds is not None:
                is_sure = confidence >= tf.gather(self.thresholds, place)
                decision = tf.where(is_sure, label, UNSURE)
        lengths = tf.cast(ids.row_lengths(), tf.int32)
        answers = {
            "probabilities": rates,
            "label": label,
            "confidence": confidence,
            "decision": decision,
            "unread": tf.maximum(lengths - most, 0),
        }
        if len(parts) > 1:
            for name, logits in parts.items():
                answers[name] = self.probabilities(logits)
        return answers

    def probabilities(self, logits: tf.Tensor) -> tf.Tensor:
        """Logits [N, K] -> probabilities float32 [N, C]."""
        return classifiers.probabilities(logits, multilabel=self.multilabel)

    def _parts(self, ids: tf.RaggedTensor) -> dict[str, tf.Tensor]:
        """The logits [N, K] of each part that the model has."""
        found = {}
        if self.classifier is not None:
            found["encoder"] = self.encoder_logits(ids)
        if self.ngrams is not None:
            found["ngram"] = self.ngrams(
                *self.ngram_tokens(ids),
                num_documents=tf.cast(ids.nrows(), tf.int32),
            )
        return found

    def encoder_logits(self, ids: tf.RaggedTensor) -> tf.Tensor:
        """Ids [N, (tokens)] to what the encoder answers alone, [N, K]."""
        (found,) = pieces.in_groups(
            ids,
            self._encoder_logits,
            size=max(1, pieces.ROWS_AT_ONCE // self.max_pieces),
            like=[tf.TensorSpec([None, self.num_logits], tf.float32)],
        )
        return found

    def ngram_tokens(
        self, ids: tf.RaggedTensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Ids [N, (tokens)] as tokens, segments and owners of the n-grams."""
        parts, owners = pieces.cut(ids, room=self.room)
        segments = tf.cast(parts.value_rowids(), tf.int32)
        return parts.values, segments, tf.gather(owners, segments)

    def mixed(self, parts: Sequence[tf.Tensor]) -> tf.Tensor:
        """The weighted sum [N, K] of the logits of the parts, in order."""
        if self.mixture is None:
            return parts[0]
        weights = tf.unstack(self.mixture[: len(parts)])
        total = tf.add_n([w * p for w, p in zip(weights, parts, strict=True)])
        return total + self.mixture[len(parts) :]

    def calibrated(self, rates: tf.Tensor) -> tf.Tensor:
        """Probabilities [N, C] without what the class weights did to them.

        Documents that counted w times as much are answered as if they were w
        times as frequent; this is undone by Bayes' rule (Saerens et al.,
        "Adjusting the Outputs of a Classifier to New a Priori Probabilities",
        2002).
        """
        if not self.class_weights:
            return rates
        rates = rates / tf.constant(self.class_weights)
        return rates / tf.reduce_sum(rates, axis=-1, keepdims=True)

    def _encoder_logits(self, ids: tf.RaggedTensor) -> list[tf.Tensor]:
        assert self.classifier is not None
        parts, owners = pieces.cut(ids, room=self.room)
        rows = self.rows(parts)
        owners = owners[:, tf.newaxis]
        is_pooled = rows["segment_ids"] > 0
        if classifiers.pools_padding(self.model_config, self.finetune):
            is_pooled = tf.ones_like(is_pooled)
        return [
            self.classifier.head(
                self.encoder(rows),
                tf.where(is_pooled, owners, -1),
                num_documents=tf.cast(ids.nrows(), tf.int32),
            )
        ]

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {
            **super().get_config(),
            "labels": self.labels,
            "multilabel": self.multilabel,
            "finetune": dataclasses.asdict(self.finetune),
            "num_ngrams": self.num_ngrams,
            "class_weights": self.class_weights,
        }
