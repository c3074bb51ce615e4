"""Fine-tuning from several seeds: how much they differ, and their average."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

from configs import schema
from trainer import checkpoint
from trainer.commands import trainee as trainee_lib
from trainer.serving import best
from trainer.training import workers

_log = logging.getLogger(__name__)
AVERAGE = "finetune_average"


def config_of(config: schema.Config, number: int) -> schema.Config:
    """The config of the seed of that number; 0 is the first."""
    seed = config.finetune.seed + number
    return dataclasses.replace(
        config, finetune=dataclasses.replace(config.finetune, seed=seed)
    )


def stage_of(number: int) -> str:
    """The stage of that seed: "finetune", "finetune_seed1", ..."""
    return f"finetune_seed{number}" if number else "finetune"


def average(
    trainee: trainee_lib.Classifier,
    stages: Sequence[str],
    workdir: str,
    *,
    chief: bool,
) -> None:
    """Saves the mean of the best weights of all seeds, validated, as a stage.

    `best.runs` takes it, or the best seed, whichever validation prefers.

    Args:
      trainee: of any of them; its weights change.
      stages: that have been trained, one a seed.
      workdir: of the run.
      chief: whether this process writes.
    """
    # The others wait here until the chief has saved.
    workers.require_equal(trainee.strategy, {"seeds": len(stages)}, remedy="")
    paths = [checkpoint.of_stage(workdir, stage).best() for stage in stages]
    states = [checkpoint.read_state(path) for path in paths]
    made_from = [f"{path.parent.name}/{path.name}" for path in paths]
    checkpoints = checkpoint.of_stage(workdir, AVERAGE, keep_last=1)
    variables = trainee.model.variables
    state = checkpoints.restore(weights=variables, optimizer=[])
    if state.get("made_from") != made_from:
        arrays = [checkpoint.weights_of(path) for path in paths]
        for variable in variables:
            variable.assign(np.mean([a[variable.path] for a in arrays], axis=0))
        means = trainee.create_evaluate()()
        state = {
            "step": max(state["step"] for state in states),
            "made_from": made_from,
            "best_by": trainee.best_by,
            **{f"validation_{name}": value for name, value in means.items()},
        }
        if chief:
            checkpoints.save(state, weights=variables, optimizer=[])
    for name in ("validation_loss", "validation_accuracy"):
        if all(name in s for s in (state, *states)):
            values = [s[name] for s in states]
            _log.info(
                "seeds:   %s %.4f, standard deviation %.4f; average weights"
                " %.4f",
                name.replace("_", " "),
                np.mean(values),
                np.std(values, ddof=1),
                state[name],
            )
    if chief:
        chosen, _ = best.runs(workdir)
        assert chosen and chosen.checkpoint
        path = chosen.checkpoint
        _log.info("best:    checkpoints/%s/%s", path.parent.name, path.name)
