"""A run, opened once and handed to every verb.

A verb is `run(run)`: it does its work and records one artifact. What several
verbs need, such as the rows, is found when the first one asks for it, and kept.
"""

import contextlib
import functools
import logging
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

import storage
from configs import runtime as runtime_lib
from configs import schema
from input_pipeline import corpus as corpus_lib
from input_pipeline import manifest, preparation
from input_pipeline import tokenizer as tokenizer_lib
from trainer import chain, checkpoint, modeling, ngrams, trained
from trainer import workdir as workdir_lib
from trainer.report import data
from trainer.serving import loading
from trainer.training import strategies, workers

_log = logging.getLogger(__name__)


class Run:
    """A config at work in a directory.

    Attributes:
      config: what to make.
      workdir: the directory of everything that the run makes except its rows.
      runtime: where it computes.
      callbacks: the user's Keras callbacks, called as `fit` would call them.
    """

    def __init__(
        self,
        config: schema.Config,
        *,
        workdir: str,
        runtime: runtime_lib.Runtime,
        callbacks: Sequence[keras.callbacks.Callback] = (),
    ):
        self.config = config
        self.workdir = workdir
        self.runtime = runtime
        self.callbacks = callbacks
        self._is_locked = False
        self._opened = dict[str, manifest.Prepared]()
        self._exported: loading.Exported | None = None

    @functools.cached_property
    def strategy(self) -> tf.distribute.Strategy:
        """Where the run computes; every process but the chief is quiet.

        Raises:
          ValueError: there is no such device, or the workers of a cluster were
            started with different configs or packages.
          LostError: a worker did not come.
        """
        strategy = strategies.create(
            self.runtime.strategy,
            num_virtual_devices=self.runtime.num_virtual_devices,
        )
        if not strategies.is_chief(strategy):
            logging.getLogger("trainer").setLevel(logging.WARNING)
        facts = self.config.to_dict()
        for name in ("prepared_dir", "num_processes"):  # May differ by host.
            del facts["data"][name]
        workers.require_equal(
            strategy,
            {**facts, "versions": workdir_lib.versions()},
            remedy="Start all with the same flags, files and packages.",
        )
        return strategy

    @functools.cached_property
    def is_chief(self) -> bool:
        """Whether this process writes and prints; one of a cluster does."""
        return strategies.is_chief(self.strategy)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps a second trainer out of the workdir; may be nested.

        Raises:
          ValueError: another process trains there.
        """
        with contextlib.ExitStack() as stack:
            if not self._is_locked:
                lock = workdir_lib.locked(self.workdir, chief=self.is_chief)
                stack.enter_context(lock)
                stack.callback(setattr, self, "_is_locked", False)
                self._is_locked = True
            yield

    @functools.cached_property
    def resolved(self) -> dict[str, Any]:
        """What `auto` became, according to config.json; see `record`."""
        found: dict[str, Any] = workdir_lib.read(self.workdir).get(
            "resolved", {}
        )
        return found

    def record(self, **resolved: Any) -> None:
        """Writes config.json, with these values besides those it has."""
        self.resolved.update(resolved)
        if self.is_chief:
            workdir_lib.record(self.workdir, self.config, self.resolved)

    @functools.cached_property
    def arithmetic(self) -> strategies.Arithmetic:
        """Precision and XLA; a run keeps those with which it began."""
        before = self.resolved if "precision" in self.resolved else None
        return strategies.resolve(self.strategy, self.config.train, before)

    @functools.cached_property
    def corpus(self) -> corpus_lib.Corpus:
        """The text of the config."""
        return corpus_lib.Corpus(self.config.data)

    @functools.cached_property
    def initial(self) -> modeling.Initial | None:
        """The model of `init_from`; None = the run starts from scratch.

        Raises:
          ValueError: there is none, or it does not fit the config.
        """
        if not self.config.init_from:
            return None
        initial = modeling.initial_weights(self.config.init_from)
        initial.check_fits(self.config)
        return initial

    @functools.cached_property
    def initial_id(self) -> str:
        """The id of the weights in `init_from`; "" if there are none.

        For a run it is the id of its encoder, for any other folder a digest of
        its files.
        """
        if not self.initial:
            return ""
        folder = storage.path_of(self.config.init_from)
        if checkpoint.of_stage(folder, "pretrain").exist():
            return trained.encoder_id(str(folder))
        digests = {
            str(path.relative_to(folder)): storage.sha256_file(path)
            for path in folder.rglob("*")
            if path.is_file()
        }
        return storage.sha256_json(digests)[:16]

    def open_rows(self, directory: str | pathlib.Path) -> manifest.Prepared:
        """Prepared rows, verified when they are opened for the first time."""
        name = str(directory)
        if name not in self._opened:
            self._opened[name] = manifest.open_prepared(directory)
        return self._opened[name]

    def forget_export(self) -> None:
        """Must be called after the export has been replaced."""
        self._exported = None

    def open_export(self) -> loading.Exported:
        """The export in the workdir, verified when it is loaded, once.

        Raises:
          ValueError: there is none, or it is damaged.
        """
        if not self._exported:
            directory = storage.path_of(self.workdir) / loading.DIRECTORY
            self._exported = loading.load(directory)
        return self._exported

    @functools.cached_property
    def rows(self) -> manifest.Prepared:
        """Rows for pretraining, made where they are missing, and verified."""
        start = time.perf_counter()
        # None: learned from the text.
        tokenizer = self.tokenizer if self.initial else None
        rows = self.open_rows(
            preparation.prepare(self.config, tokenizer, self.corpus)
        )
        for line in data.lines(rows.report, rows.sequence_length):
            _log.info("%s", line)
        seconds = time.perf_counter() - start
        _log.info("data in %s (%.1f s)", rows.directory, seconds)
        return rows

    @functools.cached_property
    def tokenizer(self) -> tokenizer_lib.Tokenizer:
        """That of `init_from`, else that of the rows for pretraining."""
        if self.initial:
            return tokenizer_lib.create(
                self.initial.kind,
                self.initial.vocabulary,
                lowercase=self.initial.lowercase,
            )
        return self.rows.tokenizer

    @functools.cached_property
    def labelled_rows(self) -> manifest.Prepared:
        """Rows for fine-tuning, made where they are missing, and verified.

        Raises:
          NoLabelsError: the text has no labels.
        """
        rows = self.open_rows(
            preparation.prepare_labelled(
                self.config, self.tokenizer, self.corpus
            )
        )
        for line in data.labelled_lines(
            rows.report,
            sequence_length=rows.sequence_length,
            pieces_per_row=self.config.finetune.pieces_per_row,
        ):
            _log.info("%s", line)
        for line in data.warnings(rows.report):
            _log.warning("%s", line)
        if rows.multilabel:
            _log.info(
                "several labels a document: %s combinations of %s classes",
                f"{len(rows.label_sets):,}",
                f"{len(rows.labels):,}",
            )
        separator = self.config.data.label_separator
        if separator and max(map(len, rows.label_sets), default=0) < 2:
            _log.warning(
                "data.label_separator=%r occurs in no label: no document has"
                " several",
                separator,
            )
        return rows

    @property
    def has_few_labels(self) -> bool:
        """Whether so few documents have a label that n-grams read others."""
        number = self.labelled_rows.roles["train"].num_documents
        return number < ngrams.MOST_LABELLED

    @functools.cached_property
    def unlabelled_rows(self) -> manifest.Prepared | None:
        """Rows of documents without a label; None if nothing learns from them.

        The n-grams do where few documents have a label; so does self-training.

        Raises:
          ValueError: self-training is wanted, but there is no such document,
            or documents may have several labels.
        """
        finetune, rows = self.config.finetune, None
        trains = finetune.self_training_rounds > 0 and finetune.encoder
        if self.labelled_rows.multilabel:
            if trains:
                raise ValueError(
                    "finetune.self_training_rounds answers text with one label,"
                    " but here a document may have several; leave the flag out."
                )
            if self.corpus.has_unlabelled:
                _log.info(
                    "text without labels is for pretraining alone: with several"
                    " labels a document, the classifier does not learn from it"
                )
            return None
        if trains or (
            finetune.ngrams
            and self.has_few_labels
            and self.corpus.has_unlabelled
        ):
            rows = self.open_rows(
                preparation.prepare_unlabelled(
                    self.config, self.labelled_rows, self.corpus
                )
            )
        if rows and rows.roles[preparation.UNLABELLED].num_rows:
            return rows
        if trains:
            raise ValueError(
                "finetune.self_training_rounds needs text without labels, but"
                " there is none: name some with data.unlabeled_path (of tfds:"
                " data.unlabeled_split), or leave the flag out."
            )
        return None

    def require_same(
        self, kind: str, stage: str, made_from: dict[str, str]
    ) -> None:
        """Refuses to continue a stage that began as something else.

        Args:
          kind: of the artifact, "encoder" or "classifier".
          stage: whose checkpoints are compared, if there are any.
          made_from: kind -> id, what the run would make it from now.

        Raises:
          ValueError: names what differs.
        """
        checkpoints = checkpoint.of_stage(self.workdir, stage)
        if state := checkpoints.last_state():
            chain.require_same(
                chain.Artifact.read(state, checkpoints.directory),
                chain.Artifact.of(kind, self.config, made_from),
                workdir=self.workdir,
                allow_changed=self.config.checkpoint.allow_changed,
            )

    def require_same_rows_on_workers(self, rows: manifest.Prepared) -> None:
        """Refuses workers that read other rows or compute in another way."""
        workers.require_equal(
            self.strategy,
            {
                "data": rows.fingerprint,
                "precision": self.arithmetic.precision,
                "XLA": self.arithmetic.jit,
                "devices": len(self.strategy.extended.worker_devices),
            },
            remedy="Give all the same text; name train.precision and train.jit"
            " where their devices differ, and let all have as many.",
        )

    def encoder_sources(self) -> dict[str, str]:
        """What pretraining makes the encoder from: kind -> id."""
        initial = {"initial": self.initial_id} if self.initial else {}
        return {"rows": self.rows.fingerprint, **initial}

    def classifier_sources(self) -> dict[str, str]:
        """What fine-tuning makes the classifier from: kind -> id.

        Raises:
          ValueError: there is no encoder to begin with.
        """
        encoder = "scratch"
        if not self.config.finetune.from_scratch:
            encoder = self.initial_id
            if self.has_begun("pretrain"):
                encoder = trained.encoder_id(self.workdir)
            if not encoder:
                raise ValueError(
                    f"There is no pretrained encoder in {self.workdir} (no"
                    " checkpoints/pretrain). Run --mode=pretrain first, give a"
                    " pretrained --config.init_from, or set"
                    " finetune.from_scratch for the control without"
                    " pretraining."
                )
        return {
            "labelled rows": self.labelled_rows.fingerprint,
            "encoder": encoder,
        }

    def has_begun(self, stage: str) -> bool:
        """Whether the workdir has a checkpoint of "pretrain" or "finetune"."""
        names = workdir_lib.stages(self.workdir)
        return any(name.startswith(stage) for name in names)
