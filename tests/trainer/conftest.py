"""A tiny corpus, a tiny run on it that is finished, and ways to change them."""

import dataclasses
import itertools
import json
import pathlib
import random
import shutil
import types

import pytest
import safetensors.numpy
import tensorflow as tf

from configs import runtime, schema
from trainer import chain, checkpoint, modeling, trained
from trainer import workdir as workdir_lib
from trainer.commands import export, pretrain
from trainer.run import Run
from trainer.training import strategies


def line(words):
    """A sentence in which most words follow from those before."""
    verdict = words.choice(["good", "bad"])
    verb = {"good": "loved", "bad": "hated"}[verdict]
    who = words.choice(["i", "she", "we"])
    text = f"the movie was {verdict} and {who} {verb} it . " * 3
    return " ".join(text.split()[: words.randint(3, 25)])


def write_reviews(path, *, seed):
    """200 documents as JSON lines, labelled "good" or "bad"."""
    words = random.Random(seed)
    records = []
    for _ in range(200):
        text = line(words)
        label = "good" if "good" in text else "bad"
        records.append(json.dumps({"text": text, "label": label}) + "\n")
    path.write_text("".join(records))
    return path


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """A text file of 180 documents."""
    path = tmp_path_factory.mktemp("corpus") / "text.txt"
    words = random.Random(7)
    path.write_text("".join(line(words) + "\n" for _ in range(180)))
    return path


@pytest.fixture(scope="session")
def changes(corpus):
    """What makes a run tiny: epochs of 15 steps, ends at step 33."""
    return {
        "data.source": "text",
        "data.path": str(corpus),
        "data.prepared_dir": str(corpus.parent / "prepared"),
        "data.sequence_length": 16,
        "data.num_processes": 1,
        "data.validation_rate": 0.1,
        "tokenizer.vocabulary_size": 32,
        "model.num_layers": 1,
        "model.hidden_size": 16,
        "model.num_heads": 2,
        "model.intermediate_size": 16,
        "optimizer.learning_rate": 0.01,
        "optimizer.schedule": "constant",
        "optimizer.warmup_steps": 0,
        "train.global_batch_size": 8,
        "train.num_steps": 33,
        "train.steps_per_epoch": 15,
        "train.steps_per_call": 10,
        "train.precision": "float32",
        "train.log_every": 5,
        "evaluation.sentences": ("the movie was [MASK] and i [MASK] it",),
        "evaluation.top_k": 2,
        "checkpoint.every_steps": 10,
        "checkpoint.keep_last": 9,
    }


@pytest.fixture(scope="session")
def tiny(changes):
    """A function: more changes -> the tiny config with them."""

    def create(more=()):
        config = schema.defaults()
        config.update_from_flattened_dict({**changes, **dict(more)})
        return schema.Config.from_config_dict(config)

    return create


@pytest.fixture(scope="session")
def labelled(tiny, tmp_path_factory):
    """A function: more changes -> a config on 200 labelled documents."""
    path = write_reviews(
        tmp_path_factory.mktemp("labelled") / "reviews.jsonl", seed=3
    )
    changes = {
        "data.source": "jsonl",
        "data.path": str(path),
        "data.prepared_dir": str(path.parent / "prepared"),
        # The sentences are variations of one.
        "data.near_duplicates": False,
        "train.num_steps": 20,
        "model.dropout": 0.1,
        "finetune.frozen_epochs": 1,
        "finetune.num_epochs": 2,
        "finetune.global_batch_size": 4,
        "finetune.learning_rate": 0.01,
        "finetune.average_decay": 0.5,
        "finetune.layer_decay": 0.9,
        "finetune.word_dropout": 0.1,
        "finetune.class_weights": "bad:2",
        "checkpoint.every_steps": 5,
    }
    return lambda more=(): tiny({**changes, **dict(more)})


@pytest.fixture(scope="session")
def flags(changes, corpus):
    """A function: workdir and more changes -> the same as a command line."""
    plain = corpus.parent / "plain.py"
    plain.write_text(
        "from configs import schema\n"
        "def get_config():\n    return schema.defaults()\n"
    )

    def create(workdir, **more):
        values = {f"config.{k}": v for k, v in changes.items()}
        values["config.evaluation.sentences"] = ["the movie was [MASK]"]
        values |= {k.replace("__", "."): v for k, v in more.items()}
        return [
            f"--config={plain}",
            f"--workdir={workdir}",
            "--mode=pretrain",
            "--strategy=one_device",
            *(f"--{name}={value}" for name, value in values.items()),
        ]

    return create


@pytest.fixture(scope="session")
def one_device():
    return runtime.Runtime("one_device")


_strategies = itertools.count(start=1)


@pytest.fixture
def devices(monkeypatch):
    """A function: number of devices -> a layout that uses so many of the four.

    The devices of a process cannot be split twice.
    """

    def create(number):
        names = [f"CPU:{i}" for i in range(number)]
        # What a collective of a process does is fixed, once its key is used.
        monkeypatch.setattr(
            tf.distribute.MirroredStrategy,
            "_collective_key_base",
            100 * next(_strategies),
        )
        monkeypatch.setattr(
            strategies,
            "create",
            lambda *_, **__: tf.distribute.MirroredStrategy(names),
        )
        return runtime.Runtime("mirrored", number)

    return create


@pytest.fixture(scope="session")
def finished(tiny, one_device, tmp_path_factory):
    """A finished run on one device; nobody changes its workdir.

    Attributes: workdir, and of its run: callback (see `Witness`).
    """
    workdir, callback = tmp_path_factory.mktemp("finished") / "run", Witness()
    run = Run(
        tiny(), workdir=str(workdir), runtime=one_device, callbacks=[callback]
    )
    pretrain.run(run)
    return types.SimpleNamespace(workdir=workdir, callback=callback)


@pytest.fixture
def copied(finished, tmp_path):
    """A function: step -> a copy of that run as if killed after its save."""

    def create(step):
        workdir = tmp_path / "copied"
        shutil.copytree(finished.workdir, workdir)
        for path in checkpoints(workdir):
            if int(path.name.removeprefix("step-")) > step:
                shutil.rmtree(path)
        return workdir

    return create


LABELS = ["bad", "good", "so so"]


@pytest.fixture(scope="session")
def tuned(finished, tiny, tmp_path_factory):
    """A function: more changes -> a workdir with both stages, trained little.

    The fine-tuning has random weights; the checkpoint of step 10 is the best.
    """

    def create(more=(), *, with_pretraining=True):
        workdir = tmp_path_factory.mktemp("tuned") / "run"
        config = tiny(more)
        shutil.copytree(finished.workdir, workdir)
        resolved = workdir_lib.read(workdir)["resolved"]
        # The labelled rows carry the same tokenizer.
        resolved |= {"labels": LABELS, "labelled": resolved["prepared"]}
        encoder = "scratch"
        if with_pretraining:
            encoder = trained.encoder_id(str(workdir))
        else:
            shutil.rmtree(workdir / "checkpoints")
            del resolved["prepared"]
        workdir_lib.record(workdir, config, resolved)
        rows = pathlib.Path(resolved["labelled"]).name
        artifact = chain.Artifact.of(
            "classifier", config, {"labelled rows": rows, "encoder": encoder}
        )
        stage = checkpoint.of_stage(workdir, "finetune")
        for step, loss in ((10, 0.5), (20, 0.75)):
            model = modeling.create_classifier(
                config.model,
                dataclasses.replace(config.finetune, seed=step),
                vocabulary_size=resolved["vocabulary_size"],
                sequence_length=config.data.sequence_length,
                num_classes=len(LABELS),
            )
            state = {"step": step, "validation_loss": loss}
            state |= artifact.at(step).to_dict()
            stage.save(state, weights=model.variables, optimizer=[])
        return workdir

    return create


@pytest.fixture(scope="session")
def exported(tuned, tiny, one_device):
    """A workdir with an export of everything; nobody changes it."""
    workdir = tuned()
    export.run(Run(tiny(), workdir=str(workdir), runtime=one_device))
    return workdir


class Witness(tf.keras.callbacks.Callback):
    """A user's callback: writes down when it is called, and with what."""

    def __init__(self):
        super().__init__()
        self.calls = []
        self.optimizer = None

    def on_train_begin(self, logs=None):
        self.optimizer = self.model.optimizer
        self.calls.append(("train_begin", None, None))

    def on_epoch_begin(self, epoch, logs=None):
        self.calls.append(("epoch_begin", epoch, None))

    def on_train_batch_end(self, batch, logs=None):
        self.calls.append(("batch_end", batch, logs))

    def on_epoch_end(self, epoch, logs=None):
        self.calls.append(("epoch_end", epoch, logs))

    def on_train_end(self, logs=None):
        self.calls.append(("train_end", None, None))


def checkpoints(workdir, stage="pretrain"):
    """Complete checkpoints, the oldest first."""
    return sorted(pathlib.Path(workdir).glob(f"checkpoints/{stage}/step-*"))


def events(workdir):
    """The events of metrics.jsonl."""
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(row) for row in text.splitlines()]


def weights(workdir, stage="pretrain"):
    """The arrays of the newest checkpoint, the optimizer's among them."""
    newest = checkpoints(workdir, stage)[-1]
    return {
        f"{file}/{name}": array
        for file in ("weights", "optimizer")
        for name, array in safetensors.numpy.load_file(
            newest / f"{file}.safetensors"
        ).items()
    }


@pytest.fixture(scope="session")
def look():
    """What a workdir holds: functions of its path."""
    return types.SimpleNamespace(
        checkpoints=checkpoints, events=events, weights=weights
    )
