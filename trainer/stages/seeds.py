"""Fine-tuning from several seeds: how much they differ, and their average."""

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np

import storage
from configs import schema
from trainer import checkpoint, trained
from trainer.run import Run
from trainer.stages import finetuning_task
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
    run: Run, task: finetuning_task.FinetuningTask, stages: Sequence[str]
) -> None:
    """Validates the mean of all seeds' best weights and saves it as a stage.

    `trained.best` chooses between it and the seeds by validation.

    Args:
      run: that they belong to.
      task: of any seed; its weights change.
      stages: those of the seeds, all of them trained.
    """
    # The other workers wait here until the chief has saved.
    workers.require_equal(task.strategy, {"seeds": len(stages)}, remedy="")
    paths = [checkpoint.of_stage(run.workdir, stage).best() for stage in stages]
    states = [checkpoint.read_state(path) for path in paths]
    step = max(state["step"] for state in states)
    wanted = dataclasses.replace(
        task.artifact,
        made_from=dict(zip(stages, map(trained.id_of, paths), strict=True)),
    ).at(step)
    checkpoints = checkpoint.of_stage(run.workdir, AVERAGE, keep_last=1)
    variables = task.model.variables
    state = checkpoints.restore(weights=variables, optimizer=[])
    if state.get("artifact", {}).get("id") != wanted.id:
        arrays = [checkpoint.weights_of(path) for path in paths]
        for variable in variables:
            variable.assign(np.mean([a[variable.path] for a in arrays], axis=0))
        means = task.create_evaluate()()
        state = {
            "step": step,
            **wanted.to_dict(),
            "best_by": task.best_by,
            **{f"validation_{name}": value for name, value in means.items()},
        }
        if run.is_chief:
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
    if run.is_chief:
        chosen, _ = trained.best(run.workdir)
        assert chosen and chosen.checkpoint
        folder = storage.path_of(run.workdir)
        _log.info("best:    %s", chosen.checkpoint.relative_to(folder))
