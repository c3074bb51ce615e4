"""The chain of artifacts, and the one rule for what belongs together.

text -> rows -> encoder -> classifier -> export -> evaluation

Every artifact records what it was made from. Whether it still belongs to a run
is one comparison: of what is there with what the run would make now.
"""

import dataclasses
from typing import Any, Self

import storage
from configs import schema

# Kind -> kinds whose knobs its artifacts record, so that a difference can be
# named by the knob that caused it.
_KNOBS = {
    "audit": (),
    "n-grams": ("n-grams",),
    "encoder": ("text", "rows", "encoder"),
    "classifier": (
        "text",
        "rows",
        "labelled rows",
        "encoder",
        "n-grams",
        "classifier",
    ),
    "export": ("export",),
    "evaluation": ("evaluation",),
}
# What an artifact was made from -> what happened if it has changed although no
# knob has, and what to do about it.
_CHANGED = {
    "initial": ("init_from holds other weights", "Restore them"),
    "rows": ("the text has changed", "Restore it"),
    "labelled rows": ("the labelled text has changed", "Restore it"),
    "encoder": (
        "the encoder to begin with is another",
        "To keep the classifier, go on with --mode=export and --mode=evaluate;"
        " to fine-tune the new encoder, start --mode=finetune in another"
        " --workdir with --config.init_from={workdir}",
    ),
}


@dataclasses.dataclass(frozen=True)
class Artifact:
    """What an artifact is and what it was made from.

    Attributes:
      kind: audit, n-grams, encoder, classifier, export or evaluation. Rows are
        known by the name of their directory, which is their id.
      knobs: by full name, the values that decide it.
      made_from: kind -> id.
      step: how many steps it was trained for; 0 if it is not trained.
    """

    kind: str
    knobs: dict[str, Any]
    made_from: dict[str, str]
    step: int = 0

    @classmethod
    def of(
        cls, kind: str, config: schema.Config, made_from: dict[str, str]
    ) -> Self:
        """The artifact that a run with this config makes from these sources."""
        return cls(kind, config.deciding(*_KNOBS[kind]), made_from)

    @classmethod
    def read(cls, facts: dict[str, Any], place: object) -> Self:
        """What `to_dict` described, out of a manifest or a state.

        Raises:
          ValueError: an older version of Cloze made it.
        """
        if "artifact" not in facts:
            raise ValueError(
                f"{place} was made by an older version of Cloze, which did not"
                " record what it was made from. Go on with that version, or"
                " choose another --workdir."
            )
        values = dict(facts["artifact"])
        del values["id"]
        return cls(**values)

    @property
    def id(self) -> str:
        """Sixteen hexadecimal digits, a digest of all attributes."""
        return storage.sha256_json(dataclasses.asdict(self))[:16]

    def at(self, step: int) -> Self:
        """The same after that many steps of training."""
        return dataclasses.replace(self, step=step)

    def to_dict(self) -> dict[str, Any]:
        """For JSON; see `read`."""
        return {"artifact": {"id": self.id, **dataclasses.asdict(self)}}

    def stale_because(self, wanted: "Artifact") -> str:
        """Why a run would now make another one, for people; "" if it would not.

        The number of steps does not count, because more of them may follow.
        """
        fixed, changeable = self.changed_knobs(wanted)
        kinds = {*self.made_from, *wanted.made_from}
        sources = [
            f"made from another {kind}"
            for kind in sorted(kinds)
            if self.made_from.get(kind) != wanted.made_from.get(kind)
        ]
        return "; ".join([*fixed, *changeable] or sources)

    def changed_knobs(self, wanted: "Artifact") -> tuple[list[str], list[str]]:
        """The knobs that differ, with both values, for people.

        Returns:
          Those that may never change, and those that may change if
          `checkpoint.allow_changed` is set.
        """
        # A knob that came later had its default before it came.
        kinds = {schema.decides(name) for name in wanted.knobs}
        before = {**schema.Config().deciding(*kinds), **self.knobs}
        fixed, changeable = list[str](), list[str]()
        for name, now in wanted.knobs.items():
            if before[name] != now:
                section, _, _ = name.partition(".")
                allowed = {name, section} & {*schema.CHANGEABLE}
                (changeable if allowed else fixed).append(
                    f"{name} was {before[name]!r}, now {now!r}"
                )
        return fixed, changeable


def require_same(
    made: Artifact, wanted: Artifact, *, workdir: str, allow_changed: bool
) -> None:
    """Refuses to continue an artifact as one that differs from it.

    Raises:
      ValueError: names every knob that differs, with both values, or what the
        artifact was made from.
    """
    fixed, changeable = made.changed_knobs(wanted)
    if fixed:
        raise ValueError(
            f"{workdir} holds another run: {'; '.join(fixed)}. Its"
            f" {made.kind} does not belong to that. Go on with the config of"
            f" the run, --config={workdir}/config.json, or choose another"
            " --workdir."
        )
    if changeable and not allow_changed:
        raise ValueError(
            f"The {made.kind} in {workdir} was trained in another way:"
            f" {'; '.join(changeable)}. Set checkpoint.allow_changed to go on"
            " with the new one, or choose another --workdir."
        )
    for kind, (what, remedy) in _CHANGED.items():
        before, now = (
            one.made_from.get(kind, "none") for one in (made, wanted)
        )
        if before != now:
            raise ValueError(
                f"{workdir} holds another run: {what} since its {made.kind} was"
                f" trained ({kind} {before}, now {now})."
                f" {remedy.format(workdir=workdir)}, or choose another"
                " --workdir."
            )
