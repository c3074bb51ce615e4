"""The best checkpoints of a run: what an export is, or would be, made from."""

import dataclasses
import logging
import math
import pathlib
from typing import Any

from configs import schema
from trainer import chain, checkpoint, ngrams
from trainer import workdir as workdir_lib

_log = logging.getLogger(__name__)
ROUND = "finetune_round"  # + 1, 2, ...: the stages of self-training.


@dataclasses.dataclass(frozen=True)
class Trained:
    """The best checkpoint of a stage, and the run that it belongs to.

    A classifier of n-grams alone has no checkpoint.
    """

    config: schema.Config
    resolved: dict[str, Any]
    stage: str
    checkpoint: pathlib.Path | None


def best(
    workdir: str, *, verify: bool = True
) -> tuple[Trained | None, Trained | None]:
    """The best classifier and the best encoder of a run; None = there is none.

    Args:
      workdir: of the run. If it has no pretraining of its own, the encoder is
        that of the run in `init_from`.
      verify: leave damaged checkpoints out, for which all of them are read.
    """
    recorded = workdir_lib.read(workdir)
    config = schema.Config.from_dict(recorded.get("config", {}))
    if ngrams.read_facts(workdir) and not config.finetune.encoder:
        return Trained(config, recorded["resolved"], "finetune", None), None
    tuned = _run(workdir, "finetune", verify=verify)
    pretrained = _run(workdir, "pretrain", verify=verify)
    if not pretrained and tuned and tuned.config.init_from:
        other = tuned.config.init_from
        pretrained = _run(other, "pretrain", verify=verify)
    return tuned, pretrained


def sources(workdir: str, *, verify: bool = True) -> dict[str, str]:
    """What an export is, or would be, made from: kind -> id."""
    tuned, pretrained = best(workdir, verify=verify)
    found = {
        kind: id_of(one.checkpoint)
        for kind, one in (("classifier", tuned), ("encoder", pretrained))
        if one and one.checkpoint
    }
    config = workdir_lib.read(workdir).get("config", {})
    facts = ngrams.read_facts(workdir)
    if facts and config.get("finetune", {}).get("ngrams", False):
        found["n-grams"] = chain.Artifact.read(facts, ngrams.DIRECTORY).id
    return found


def encoder_id(workdir: str) -> str:
    """The id of the best encoder of a run that has been pretrained."""
    return id_of(checkpoint.of_stage(workdir, "pretrain").best())


def id_of(path: pathlib.Path) -> str:
    """The id of what a checkpoint holds."""
    return chain.Artifact.read(checkpoint.read_state(path), path).id


def warn_if_older(workdir: str, facts: dict[str, Any]) -> None:
    """Warns if a run has gone on since it was exported with these facts."""
    before = facts.get("artifact", {}).get("made_from", {})
    changed = [
        kind
        for kind, id in sources(workdir, verify=False).items()
        if id != before.get(kind)
    ]
    if changed:
        _log.warning(
            "the run has another %s by now than its export;"
            " --mode=export replaces it",
            " and another ".join(changed),
        )


def teacher(workdir: str, number: int) -> Trained:
    """The best classifier from before a round of self-training."""
    run = _run(workdir, "finetune", verify=True, rounds=number - 1)
    assert run
    return run


def _run(
    workdir: str, stage: str, *, verify: bool, rounds: float = math.inf
) -> Trained | None:
    """The best of a stage, of all its seeds and of so many rounds."""
    every = [
        checkpoint.of_stage(workdir, name)
        for name in sorted(workdir_lib.stages(workdir))
        if name.startswith(stage) and _round_of(name) <= rounds
    ]
    found = [one.best(verify=verify) for one in every if one.exist()]
    if not found:
        return None
    recorded = workdir_lib.read(workdir)
    config = schema.Config.from_dict(recorded["config"])
    best_one = checkpoint.best_of(found)
    return Trained(config, recorded["resolved"], stage, best_one)


def _round_of(stage: str) -> int:
    return int(stage.removeprefix(ROUND)) if stage.startswith(ROUND) else 0
