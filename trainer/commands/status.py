"""`--mode=status`: what a workdir holds, what is stale and what is missing."""

from collections.abc import Iterator

import storage
from input_pipeline import preparation
from trainer import chain, checkpoint, ngrams, trained
from trainer.commands import evaluate, export
from trainer.run import Run
from trainer.serving import loading
from trainer.stages import budget
from trainer.training import loop

_COLUMNS = ("artifact", "id", "step", "made from", "state")
_DONE = "done"


def run(run: Run) -> None:
    """Prints the chain of a workdir as a table; makes and changes nothing.

    A line for each artifact: its id, for how many steps it has been trained,
    the ids of what it was made from, and whether it is done, stale (and why)
    or missing.

    Raises:
      ValueError: the text of the config, or `init_from`, cannot be read.
    """
    rows = [_COLUMNS, *_chain(run)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{c:<{w}}" for c, w in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    states = [row[-1] for row in rows[1:]]
    if any(state.startswith("stale") for state in states):
        print("What is stale belongs to another config or text: go on with")
        print(f"--config={run.workdir}/config.json, or with another --workdir.")
    elif any(state != _DONE for state in states):
        print("--mode=all with the same flags makes what is not done.")


def _chain(run: Run) -> Iterator[tuple[str, ...]]:
    """The cells of every artifact, in the order in which they are made."""
    config, workdir = run.config, run.workdir
    rows = preparation.locate(config, run.tokenizer if run.initial else None)
    prepared = bool(storage.complete(rows.parent, rows.name))
    yield ("rows", rows.name, "", "text", _DONE if prepared else "missing")

    labelled = storage.path_of(run.resolved.get("labelled", "")).name
    facts = ngrams.read_facts(workdir)
    made = chain.Artifact.read(facts, workdir) if facts else None
    if config.finetune.ngrams or made:
        before = made.made_from if made else {}
        yield _row("n-grams", made, {**before, "labelled rows": labelled}, run)

    encoder = checkpoint.of_stage(workdir, "pretrain")
    state = encoder.last_state()
    if config.finetune.encoder or state:
        made = chain.Artifact.read(state, encoder.directory) if state else None
        initial = {"initial": run.initial_id} if run.initial else {}
        row = _row("encoder", made, {"rows": rows.name, **initial}, run)
        if row[-1] == _DONE and prepared:
            plan = loop.Plan.of(
                config.train,
                budget.decided(run),
                storage.read_manifest(rows)["roles"]["train"]["num_rows"],
            )
            if state["step"] < plan.num_steps:
                row = (*row[:-1], f"{state['step']} of {plan.num_steps} steps")
        yield row

    tuned, _ = trained.best(workdir)
    if config.finetune.encoder and labelled or tuned:
        made = None
        if tuned and tuned.checkpoint:
            made = chain.Artifact.read(
                checkpoint.read_state(tuned.checkpoint), tuned.checkpoint
            )
        # A student has rows of its own, an average is made from classifiers.
        sources = dict(made.made_from) if made else {}
        if "encoder" in sources and sources["encoder"] != "scratch":
            sources["encoder"] = (
                trained.encoder_id(workdir) if state else run.initial_id
            )
        yield _row("classifier", made, sources, run)

    directory = storage.path_of(workdir) / loading.DIRECTORY
    made = None
    if directory.is_dir():
        made = chain.Artifact.read(storage.read_manifest(directory), directory)
    yield _row("export", made, export.wanted(run).made_from, run)

    result = evaluate.read(workdir)
    made = chain.Artifact.read(result, workdir) if result else None
    sources = evaluate.wanted(run).made_from
    row = _row("evaluation", made, sources, run)
    if row[-1] == _DONE and not evaluate.is_done(run):
        row = (*row[:-1], "missing: a file of it is gone")
    yield row


def _row(
    kind: str,
    made: chain.Artifact | None,
    made_from: dict[str, str],
    run: Run,
) -> tuple[str, ...]:
    """The cells of an artifact: what it is against what it would be now."""
    if not made:
        return (kind, "", "", "", "missing")
    why = made.stale_because(chain.Artifact.of(kind, run.config, made_from))
    return (
        kind,
        made.id,
        f"{made.step:,}" if made.step else "",
        ", ".join(f"{name} {id}" for name, id in made.made_from.items()),
        f"stale: {why}" if why else _DONE,
    )
