"""`--mode=report`: a table for the terminal, `report.html` for later."""

import storage
from trainer import checkpoint
from trainer.commands import evaluate
from trainer.report import page, summary
from trainer.run import Run
from trainer.stages import audit
from trainer.training import metrics

FILE = "report.html"
STAGES = ("pretrain", "finetune_frozen", "finetune")
_PLACES = {
    "encoder": "checkpoints/pretrain",
    "classifier": "checkpoints/finetune",
    "artifact": "export",
    "evaluation": evaluate.RESULT,
    "report": FILE,
}


def run(run: Run) -> None:
    """Writes `<workdir>/report.html` and prints its summary as a table.

    What the workdir does not hold, such as a classifier, is left out.
    """
    config, workdir = run.config, run.workdir
    folder = storage.path_of(workdir)
    recorded = metrics.read_all(workdir)
    stages = {stage: recorded[stage] for stage in STAGES if stage in recorded}
    evaluation = evaluate.read(workdir)
    trained = {stage: checkpoint.of_stage(folder, stage) for stage in stages}
    parameters = {
        stage: sum(
            array.size
            for array in checkpoint.weights_of(checkpoints.best()).values()
        )
        for stage, checkpoints in trained.items()
        if checkpoints.exist()
    }
    answer = summary.answer(evaluation)
    lines = summary.lines(
        stages=stages,
        parameters=parameters,
        evaluation=evaluation,
        places={
            name: str(folder / place)
            for name, place in _PLACES.items()
            if place == FILE or (folder / place).exists()
        },
        best_by=config.checkpoint.best_by,
    )
    tables = summary.tables(evaluation)
    picture = folder / evaluate.PICTURE
    # A picture of an older evaluation says nothing about this one.
    is_shown = "classifier" in evaluation and picture.exists()
    text = page.render(
        title=f"Cloze: {folder.resolve().name}",
        answer=answer,
        summary=lines,
        stages=stages,
        picture=picture.read_bytes() if is_shown else b"",
        tables={**tables, **summary.ngram_tables(evaluation)},
        mistakes=evaluation.get("most_wrong", ()),
        config=config.to_dict(),
        audit=audit.read(workdir),
    )
    (folder / FILE).write_text(text, encoding="utf-8")
    print(summary.table(lines, tables), "", *answer, sep="\n")
