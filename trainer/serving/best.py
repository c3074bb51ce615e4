"""The best checkpoints of a run: what an export is, or would be, made of."""

import dataclasses
import logging
import math
import pathlib
from typing import Any

from configs import schema
from trainer import checkpoint, ngrams
from trainer import workdir as workdir_lib

_log = logging.getLogger(__name__)
ROUND = "finetune_round"  # The stages of self-training: with 1, 2, ... behind.


@dataclasses.dataclass(frozen=True)
class Run:
    """The run of one stage, and its best checkpoint.

    A classifier of n-grams alone has no checkpoint.
    """

    config: schema.Config
    resolved: dict[str, Any]
    stage: str
    checkpoint: pathlib.Path | None


def runs(workdir: str, *, verify: bool = True) -> tuple[Run | None, Run | None]:
    """What is fine-tuned and what is pretrained; None = is not.

    Args:
      workdir: of the run; where it was not pretrained, the run that it began
        from counts.
      verify: leaves damaged checkpoints out, which takes reading them all.
    """
    recorded = workdir_lib.read(workdir)
    config = schema.Config.from_dict(recorded.get("config", {}))
    if ngrams.read_facts(workdir) and not config.finetune.encoder:
        return Run(config, recorded["resolved"], "finetune", None), None
    tuned = _run(workdir, "finetune", verify=verify)
    pretrained = _run(workdir, "pretrain", verify=verify)
    if not pretrained and tuned and tuned.config.init_from:
        other = tuned.config.init_from
        pretrained = _run(other, "pretrain", verify=verify)
    return tuned, pretrained


def states(workdir: str, *, verify: bool = True) -> dict[str, dict[str, Any]]:
    """Step and validation of what would be exported, by stage."""
    found = zip(
        ("finetune", "pretrain"), runs(workdir, verify=verify), strict=True
    )
    states = {
        stage: _state(run.checkpoint)
        for stage, run in found
        if run and run.checkpoint
    }
    config = workdir_lib.read(workdir).get("config", {})
    facts = ngrams.read_facts(workdir)
    if facts and config.get("finetune", {}).get("ngrams", False):
        states["ngrams"] = {"fingerprint": facts["fingerprint"]}
    return states


def warn_if_older(workdir: str, facts: dict[str, Any]) -> None:
    """Says so where a run has gone on since its export, of these facts."""
    exported = facts["checkpoints"]
    for stage, state in states(workdir, verify=False).items():
        if state != exported.get(stage):
            _log.warning(
                "the export has another %s (%s) than the run has now (%s):"
                " --mode=export replaces it",
                stage,
                _words(exported.get(stage, {})),
                _words(state),
            )


def _words(state: dict[str, Any]) -> str:
    return ", ".join(f"{k} {v}" for k, v in state.items()) or "none"


def teacher(workdir: str, number: int) -> Run:
    """The best classifier from before that round of self-training."""
    run = _run(workdir, "finetune", verify=True, rounds=number - 1)
    assert run
    return run


def _run(
    workdir: str, stage: str, *, verify: bool, rounds: float = math.inf
) -> Run | None:
    """The run of a stage: of its seeds, or of these rounds, the best."""
    every = [
        checkpoint.of_stage(workdir, name)
        for name in sorted(workdir_lib.stages(workdir))
        if name.startswith(stage) and _round_of(name) <= rounds
    ]
    found = [one.best(verify=verify) for one in every if one.exist()]
    if not found:
        return None
    recorded = workdir_lib.read(workdir)
    return Run(
        schema.Config.from_dict(recorded["config"]),
        recorded["resolved"],
        stage,
        checkpoint.best_of(found),
    )


def _round_of(stage: str) -> int:
    return int(stage.removeprefix(ROUND)) if stage.startswith(ROUND) else 0


def _state(path: pathlib.Path) -> dict[str, Any]:
    """Step and validation of a checkpoint."""
    names = ("step", "validation_loss", "validation_accuracy")
    state = checkpoint.read_state(path)
    return {name: state[name] for name in names if name in state}
