"""The sections on what is learned: a frozen dataclass each, checked when made.

No default is None, because such a field could not be overridden: "", 0 and -1
have the meaning that stands beside them.
"""

import dataclasses
import re

from configs import checks

# Ids are stored with one flag bit, in 32 bits at most.
MAX_VOCABULARY_SIZE = 2**31 - 1
_SCHEDULES = ("linear", "cosine", "constant")
_CLASS_WEIGHT = re.compile(
    r"\s*(.+?)\s*:\s*([-+]?\d*\.?\d+(?:[eE][-+]?\d+)?)\s*(?:,|$)"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """How text becomes ids."""

    # "word" is the Keras example's, which knows case and punctuation of ASCII.
    kind: str = "unicode_word"  # unicode_word | word | wordpiece
    lowercase: bool = True  # Word pieces: without accents, too.
    vocabulary_size: int = 30_000  # At most; special tokens included.
    max_documents: int = 0  # Learn from the first N documents; 0 = all.

    def __post_init__(self) -> None:
        checks.choice(
            "tokenizer.kind", self.kind, ("unicode_word", "word", "wordpiece")
        )
        checks.require(
            self.lowercase or self.kind != "word",
            "tokenizer.lowercase=False does not go with tokenizer.kind=word,"
            " the rule of the Keras example; use unicode_word or wordpiece.",
        )
        checks.at_least("tokenizer.vocabulary_size", self.vocabulary_size, 16)
        checks.require(
            self.vocabulary_size <= MAX_VOCABULARY_SIZE,
            f"tokenizer.vocabulary_size={self.vocabulary_size} does not fit"
            f" the id type; use at most {MAX_VOCABULARY_SIZE}.",
        )
        checks.at_least("tokenizer.max_documents", self.max_documents, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskingConfig:
    """What is hidden and how."""

    policy: str = "token"  # token | whole_word | span
    select_rate: float = 0.15  # Share of ordinary tokens to predict.
    final_select_rate: float = -1.0  # Reached at decay_steps; -1 = constant.
    decay_steps: int = 0  # Steps of the linear change of the rate.
    mask_rate: float = 0.8  # Of the selected: replaced by [MASK].
    random_rate: float = 0.1  # Of the selected: replaced by a random token.
    evaluation_rate: float = 0.15  # Select rate of the frozen masks.

    def __post_init__(self) -> None:
        checks.choice(
            "masking.policy", self.policy, ("token", "whole_word", "span")
        )
        for name in ("select_rate", "mask_rate", "random_rate"):
            checks.rate(f"masking.{name}", getattr(self, name))
        checks.rate("masking.evaluation_rate", self.evaluation_rate)
        checks.require(
            self.mask_rate + self.random_rate <= 1 + 1e-9,
            f"masking.mask_rate={self.mask_rate} + masking.random_rate="
            f"{self.random_rate} must not exceed 1.",
        )
        if self.final_select_rate != -1.0:
            checks.rate("masking.final_select_rate", self.final_select_rate)
            checks.at_least(
                "masking.decay_steps (needed by masking.final_select_rate)",
                self.decay_steps,
                1,
            )
        checks.require(
            self.highest_rate > 0,
            "masking.select_rate=0 leaves nothing to predict; 0.15 is usual.",
        )

    @property
    def last_rate(self) -> float:
        """The select rate from `decay_steps` on."""
        constant = self.final_select_rate == -1.0
        return self.select_rate if constant else self.final_select_rate

    @property
    def highest_rate(self) -> float:
        """The highest select rate of training."""
        return max(self.select_rate, self.last_rate)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The encoder and its masked-LM head."""

    num_layers: int = 2  # Of the encoder.
    hidden_size: int = 128  # D
    num_heads: int = 4  # H
    intermediate_size: int = 512  # F, of the feed-forward layers.
    activation: str = "gelu"  # relu | gelu | gelu_tanh; encoder and head.
    normalization: str = "pre"  # "pre" or "post" (BERT) LayerNorm.
    embedding_norm: bool = False  # LayerNorm and dropout after embedding.
    token_types: bool = False  # BERT's type embedding, always type 0.
    dropout: float = 0.0  # Of the embeddings and in every layer.
    attention_dropout: float = 0.0  # Of the attention weights.
    layer_norm_epsilon: float = 1e-6  # Added to a variance.
    initializer_range: float = 0.02  # 0 = Keras' own initializers.
    tie_embeddings: bool = True  # Head projects with the embedding table.
    head_transform: bool = True  # Dense, activation, LayerNorm before it.
    attend_padding: bool = False  # The Keras example attends to padding.
    positions: str = "learned"  # "learned" table [L, D] | "rotary" (no table).

    def __post_init__(self) -> None:
        checks.all_at_least(
            1,
            "model",
            self,
            "num_layers hidden_size num_heads intermediate_size",
        )
        checks.require(
            self.hidden_size % self.num_heads == 0,
            f"model.hidden_size={self.hidden_size} must be a multiple of"
            f" model.num_heads={self.num_heads}.",
        )
        checks.choice(
            "model.activation", self.activation, ("relu", "gelu", "gelu_tanh")
        )
        checks.choice(
            "model.normalization", self.normalization, ("pre", "post")
        )
        checks.choice("model.positions", self.positions, ("learned", "rotary"))
        checks.require(
            self.positions == "learned"
            or self.hidden_size // self.num_heads % 2 == 0,
            "model.positions=rotary turns pairs of a head's components:"
            f" model.hidden_size={self.hidden_size} / model.num_heads="
            f"{self.num_heads} must be even.",
        )
        for name in ("dropout", "attention_dropout"):
            checks.rate(f"model.{name}", getattr(self, name), below_1=True)
        checks.above_zero("model.layer_norm_epsilon", self.layer_norm_epsilon)
        checks.at_least("model.initializer_range", self.initializer_range, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW and its learning rate over the steps."""

    learning_rate: float = 1e-3  # The highest, after warm-up.
    schedule: str = "linear"  # linear | cosine | constant, after warm-up.
    warmup_steps: int = 0  # While the learning rate rises.
    final_rate: float = 0.0  # Share of learning_rate left at the end.
    weight_decay: float = 0.01  # Not on biases and LayerNorm.
    beta_1: float = 0.9  # Decay of Adam's first moment.
    beta_2: float = 0.98  # Decay of the second.
    epsilon: float = 1e-6  # Added to its root.
    clip_norm: float = 1.0  # Global gradient norm; 0 = no clipping.

    def __post_init__(self) -> None:
        checks.above_zero("optimizer.learning_rate", self.learning_rate)
        checks.above_zero("optimizer.epsilon", self.epsilon)
        checks.choice("optimizer.schedule", self.schedule, _SCHEDULES)
        checks.all_at_least(
            0, "optimizer", self, "warmup_steps weight_decay clip_norm"
        )
        checks.rate("optimizer.final_rate", self.final_rate)
        for name in ("beta_1", "beta_2"):
            checks.rate(f"optimizer.{name}", getattr(self, name), below_1=True)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How long, how much at once, on what arithmetic."""

    global_batch_size: int = 32  # B, rows a step over all devices.
    num_steps: int = 0  # 0 = num_epochs over the data.
    num_epochs: int = 1  # Used where num_steps is 0; 0 = enough.
    # For the steps of pretraining and fine-tuning together, which are counted
    # from the speed of the first ones; 0 = any.
    minutes: float = 0.0
    steps_per_epoch: int = 0  # 0 = every row once.
    accumulation_steps: int = 1  # Micro-batches a step on each device.
    # Last share of the steps, with one softmax over all tokens; before, it has
    # two levels where that is faster: frequent tokens and a cluster of others.
    full_softmax_rate: float = 1.0
    rematerialize: bool = False  # Less memory: layers computed twice.
    steps_per_call: int = 10  # Steps a Python call, at most.
    steps_per_program: int = 1  # Of a call, in one XLA program; one replica.
    precision: str = "auto"  # auto | float32 | bfloat16 | float16
    jit: str = "auto"  # XLA for forward and backward: auto | on | off
    log_every: int = 50  # Steps.
    profile_steps: str = ""  # "a:b" traces these steps for TensorBoard.

    def __post_init__(self) -> None:
        first, last = self.profiled
        checks.require(
            0 <= first < last or not self.profile_steps,
            f"train.profile_steps={self.profile_steps!r} must be two steps,"
            " the second behind the last one traced, such as 100:110.",
        )
        checks.all_at_least(
            1,
            "train",
            self,
            "global_batch_size accumulation_steps steps_per_call"
            " steps_per_program log_every",
        )
        checks.all_at_least(
            0, "train", self, "num_steps num_epochs steps_per_epoch minutes"
        )
        checks.rate("train.full_softmax_rate", self.full_softmax_rate)
        checks.choice(
            "train.precision",
            self.precision,
            ("auto", "float32", "bfloat16", "float16"),
        )
        checks.choice("train.jit", self.jit, ("auto", "on", "off"))

    @property
    def profiled(self) -> tuple[int, int]:
        """The first step that is traced and the one behind the last; (0, 0)."""
        found = re.fullmatch(r"(\d+):(\d+)", self.profile_steps)
        return (int(found[1]), int(found[2])) if found else (0, 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FinetuneConfig:
    """The classifier on the encoder, and how both learn from labels.

    Momentum, epsilon and clipping are those of the section `optimizer`.
    """

    seed: int = 0  # Head, order and dropout; the encoder is what it is.
    num_seeds: int = 1  # seed, seed + 1, ...: the best or their average counts.
    # Students that learn from answers to unlabelled text, too.
    self_training_rounds: int = 0
    ngrams: bool = True  # A linear model of n-grams beside the encoder.
    encoder: bool = True  # False: n-grams alone, nothing is pretrained.
    # What a document counts by its class: none | balanced | spam:5,ham:1
    class_weights: str = "none"
    # Share of the decisions that has to be right; other answers are "unsure".
    min_precision: float = 0.0  # 0 = every text is decided.
    from_scratch: bool = False  # The control: an encoder without pretraining.
    frozen_epochs: int = 0  # First, with the encoder frozen.
    num_steps: int = 0  # Then, with everything trained; 0 = num_epochs.
    num_epochs: int = 3  # Over the labelled rows; 0 = enough.
    patience: int = 0  # Epochs without a better validation; 0 = no end.
    global_batch_size: int = 8  # Rows a step over all devices; 0 = enough for
    batch_documents: int = 32  # about this many documents.
    packing: str = "fill"  # "fill" rows, or one "document" a row.
    # Of L slots each; longer documents are cut. 0 = fits the documents.
    pieces_per_row: int = 4
    pooling: str = "mean_max"  # max | mean | mean_max | attention
    hidden_size: int = 0  # Dense layer before the output; 0 = none.
    dropout: float = 0.1  # Before the output; of every layer: model.dropout.
    word_dropout: float = 0.0  # Share of tokens shown as unknown.
    learning_rate: float = 5e-4  # The highest.
    schedule: str = "linear"  # linear | cosine | constant, after warm-up.
    warmup_rate: float = 0.1  # Share of the steps.
    weight_decay: float = 0.01  # Decoupled, as AdamW's.
    layer_decay: float = 1.0  # Learning rate of a layer over the one above.
    # Moving average of the weights; 0 = none, -1 = fits the steps.
    average_decay: float = 0.0

    def __post_init__(self) -> None:
        checks.require(
            0 <= self.seed <= 2**31 - self.num_seeds,
            f"finetune.seed={self.seed} must lie between 0 and"
            f" {2**31 - self.num_seeds}.",
        )
        checks.require(
            self.encoder or self.ngrams,
            "finetune.encoder=False and finetune.ngrams=False leave no"
            " classifier; set one of them to True.",
        )
        checks.all_at_least(1, "finetune", self, "num_seeds batch_documents")
        checks.all_at_least(
            0,
            "finetune",
            self,
            "num_steps num_epochs patience self_training_rounds hidden_size"
            " global_batch_size pieces_per_row frozen_epochs weight_decay",
        )
        checks.rate("finetune.min_precision", self.min_precision, below_1=True)
        self.named_class_weights()
        checks.choice("finetune.packing", self.packing, ("fill", "document"))
        checks.choice(
            "finetune.pooling",
            self.pooling,
            ("max", "mean", "mean_max", "attention"),
        )
        checks.choice("finetune.schedule", self.schedule, _SCHEDULES)
        checks.above_zero("finetune.learning_rate", self.learning_rate)
        checks.above_zero("finetune.layer_decay", self.layer_decay)
        for name in ("warmup_rate", "layer_decay"):
            checks.rate(f"finetune.{name}", getattr(self, name))
        for name in ("dropout", "word_dropout"):
            checks.rate(f"finetune.{name}", getattr(self, name), below_1=True)
        checks.require(
            self.average_decay == -1 or 0 <= self.average_decay < 1,
            f"finetune.average_decay={self.average_decay} must be at least 0"
            " and below 1, or be -1 to fit the steps.",
        )

    def named_class_weights(self) -> dict[str, float]:
        """Label -> weight, of the classes that `class_weights` names.

        A label may hold commas and colons: it ends at the last colon before a
        number.
        """
        given = self.class_weights
        if given in ("none", "balanced"):
            return {}
        pairs = [*_CLASS_WEIGHT.finditer(given)]
        checks.require(
            bool(pairs) and "".join(pair[0] for pair in pairs) == given,
            f"finetune.class_weights={given!r} must be none, balanced, or a"
            " weight for each of some classes, such as spam:5,ham:1.",
        )
        for pair in pairs:
            checks.above_zero(
                f"finetune.class_weights: the weight of {pair[1]!r},",
                float(pair[2]),
            )
        return {pair[1]: float(pair[2]) for pair in pairs}
