"""`--mode=all`: every stage in turn, skipping what is done."""

from collections.abc import Sequence
from typing import Any

from configs import schema
from configs.runtime import Runtime
from trainer.commands import pretrain


def run(
    config: schema.Config,
    *,
    workdir: str,
    runtime: Runtime,
    callbacks: Sequence[Any] = (),
) -> None:
    """Prepares what is missing, then pretrains."""
    pretrain.run(config, workdir=workdir, runtime=runtime, callbacks=callbacks)
