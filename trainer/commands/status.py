"""`--mode=status`: what a workdir holds, what is stale and what is missing."""

from collections.abc import Iterator
from typing import Any

import storage
from input_pipeline import preparation
from trainer import chain, checkpoint, ngrams, trained
from trainer.commands import evaluate, export
from trainer.report import summary
from trainer.run import Run
from trainer.serving import loading
from trainer.stages import audit, budget
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
    print(summary.columns(rows))
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
    facts = audit.read(workdir)
    if labelled or facts:
        made_from = dict(facts.get("artifact", {}).get("made_from", {}))
        if labelled:  # Preparing alone does not record it.
            made_from["labelled rows"] = labelled
        yield _row(run, "audit", facts, made_from)

    facts = ngrams.read_facts(workdir)
    if config.finetune.ngrams or facts:
        before = facts.get("artifact", {}).get("made_from", {})
        made_from = {**before, "labelled rows": labelled}
        yield _row(run, "n-grams", facts, made_from)

    state = checkpoint.of_stage(workdir, "pretrain").last_state()
    if config.finetune.encoder or state:
        initial = {"initial": run.initial_id} if run.initial else {}
        row = _row(run, "encoder", state, {"rows": rows.name, **initial})
        if row[-1] == _DONE and prepared:
            decided = budget.decided(run)
            num_rows = storage.read_manifest(rows)["roles"]["train"]["num_rows"]
            plan = loop.Plan.of(decided.train, decided, num_rows)
            if state["step"] < plan.num_steps:
                row = (*row[:-1], f"{state['step']} of {plan.num_steps} steps")
        yield row

    tuned, _ = trained.best(workdir)
    best = tuned.checkpoint if tuned else None  # n-grams alone have none.
    if config.finetune.encoder and labelled or best:
        facts = checkpoint.read_state(best) if best else {}
        # A student has rows of its own, an average is made from classifiers.
        sources = dict(facts.get("artifact", {}).get("made_from", {}))
        if sources.get("encoder", "scratch") != "scratch":
            sources["encoder"] = (
                trained.encoder_id(workdir) if state else run.initial_id
            )
        yield _row(run, "classifier", facts, sources)

    directory = storage.path_of(workdir) / loading.DIRECTORY
    facts = storage.read_manifest(directory) if directory.is_dir() else {}
    yield _row(run, "export", facts, export.wanted(run).made_from)

    facts, wanted = evaluate.read(workdir), evaluate.wanted(run)
    row = _row(run, "evaluation", facts, wanted.made_from)
    if row[-1] == _DONE and not evaluate.is_done(run):
        row = (*row[:-1], "missing: a file of it is gone")
    yield row


def _row(
    run: Run, kind: str, facts: dict[str, Any], made_from: dict[str, str]
) -> tuple[str, ...]:
    """The cells of an artifact: what it is against what it would be now.

    Args:
      run: what would be made now.
      kind: of the artifact.
      facts: its manifest or state; {} = there is none.
      made_from: kind -> id, of what it would be made from now.
    """
    if not facts:
        return (kind, "", "", "", "missing")
    made = chain.Artifact.read(facts, f"The {kind} in {run.workdir}")
    why = made.stale_because(chain.Artifact.of(kind, run.config, made_from))
    return (
        kind,
        made.id,
        f"{made.step:,}" if made.step else "",
        ", ".join(f"{name} {id}" for name, id in made.made_from.items()),
        f"stale: {why}" if why else _DONE,
    )
