"""The workdir, the disks and the store: who may write, and how much."""

import pathlib
import shutil
import tempfile
import uuid

import storage
from configs import schema
from trainer import chain, checkpoint
from trainer import workdir as workdir_lib
from trainer.commands.checkups.check import Case
from trainer.training import strategies

# Of a parameter in a checkpoint: the weight and two moments, float32.
_PARAMETER_BYTES = 12
# Pretraining and fine-tuning; besides the newest the best, the one that is
# being written, and the export, which has no moments but several forms.
_STAGES, _MORE_CHECKPOINTS = 2, 3


def workdir(case: Case) -> str:
    """Whether it can be written, holds no other run, and nobody trains there.

    Whether data.prepared_dir can be written, too. No directory is made.
    """
    for place in (case.workdir, case.config.data.prepared_dir):
        _write(place)
    for kind, stage in (("encoder", "pretrain"), ("classifier", "finetune")):
        state = checkpoint.of_stage(case.workdir, stage).last_state()
        if state:
            made = chain.Artifact.read(state, case.workdir)
            chain.require_same(
                made,
                chain.Artifact.of(kind, case.config, made.made_from),
                workdir=case.workdir,
                allow_changed=case.config.checkpoint.allow_changed,
            )
    chief = case.strategy is None or strategies.is_chief(case.strategy)
    if storage.path_of(case.workdir).exists():
        with workdir_lib.locked(case.workdir, chief=chief):
            pass
    begun = (
        "a run that can go on"
        if workdir_lib.stages(case.workdir)
        else "no run yet"
    )
    return f"{case.workdir} can be written; {begun}"


def space(case: Case) -> str:
    """Whether the checkpoints of a run fit on the disk."""
    parameters = _num_parameters(case.config)
    kept = case.config.checkpoint.keep_last + _MORE_CHECKPOINTS
    needed = _PARAMETER_BYTES * parameters * kept * _STAGES
    text = f"about {needed / 1e9:,.1f} GB needed for the checkpoints of a run"
    if storage.in_store(case.workdir):
        return f"{text}; what is free is not checked in a store"
    place = _existing(pathlib.Path(case.workdir))
    free = shutil.disk_usage(place).free
    text = f"{free / 1e9:,.1f} GB free at {place}, {text}"
    if free < needed:
        raise ValueError(
            f"{text}; free some, choose another --workdir, or lower"
            " checkpoint.keep_last."
        )
    return text


def _write(place: str) -> None:
    """Writes a little there and removes it; raises what is in the way."""
    if not storage.in_store(place):
        with tempfile.TemporaryFile(dir=_existing(pathlib.Path(place))) as file:
            file.write(b"doctor")
        return
    probe = storage.path_of(place) / f".doctor-{uuid.uuid4().hex}"
    probe.write_bytes(b"doctor")
    probe.read_bytes()  # A right of its own there; so is the next.
    probe.unlink()


def _existing(path: pathlib.Path) -> pathlib.Path:
    """The path, or the nearest one above it that is there."""
    return next(p for p in (path, *path.parents) if p.exists())


def _num_parameters(config: schema.Config) -> int:
    """About; at most, as the vocabulary may turn out smaller."""
    model, width = config.model, config.model.hidden_size
    tables = config.tokenizer.vocabulary_size * (2 - model.tie_embeddings)
    layer = 4 * width + 2 * model.intermediate_size
    slots = config.data.sequence_length
    return width * (tables + slots + model.num_layers * layer)


CHECKS = (workdir, space)
