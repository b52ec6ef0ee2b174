"""Findings of an audit: what is so frequent in a data set that it should be looked at before a training, and what to do."""

from app.domain.dataset import Audit, AuditFinding
from app.ingest.audit.profile import TEMPLATED
from app.ingest.audit.repeats import CONTRADICTED, DUPLICATE, NEAR_DUPLICATE, RATINGS
from app.system.numbers import percent

FEW = 0.01


def diagnose_audit(audit: Audit) -> list[AuditFinding]:
    """Return the findings of a finished audit, the graver ones first."""
    counts = {note.note: note.count for note in audit.notes}
    carried = TEMPLATED.partition("(")[0]
    templated = sum(count for note, count in counts.items() if note.startswith(carried))
    repeated = counts.get(DUPLICATE, 0) + counts.get(NEAR_DUPLICATE, 0)
    found = (
        AuditFinding(
            name="contradictory_pairs",
            title="Pairs contradict each other",
            evidence=f"{count_of(counts.get(CONTRADICTED, 0), audit)} prefer what an earlier one rejects.",
            remedy="Which is right can't be told: switch leave_out_contradictory_pairs on to leave both out.",
        ) if counts.get(CONTRADICTED) else None,
        AuditFinding(
            name="contradicting_ratings",
            title="Ratings contradict the labels",
            evidence=f"In {count_of(counts.get(RATINGS, 0), audit)} another response is rated higher than the chosen one.",
            remedy="Check that a higher rating means better, and that chosen and rejected are not swapped; or switch "
            "leave_out_contradicting_ratings on.",
        ) if counts.get(RATINGS, 0) > FEW * audit.num_examples else None,
        AuditFinding(
            name="repeated_examples",
            title="Examples repeat themselves",
            evidence=f"{count_of(repeated, audit)} repeat an earlier one, {counts.get(NEAR_DUPLICATE, 0)} of them nearly.",
            remedy="They weigh more, and may stand on both sides of the split: switch leave_out_duplicates and "
            "leave_out_near_duplicates on.",
        ) if repeated > FEW * audit.num_examples else None,
        AuditFinding(
            name="carried_template",
            title="Texts already carry a chat template",
            evidence=f"{count_of(templated, audit)} hold the marks of one, and the model's own is put around them.",
            remedy="Switch strip_template on to turn them into messages; as they are, the marks are learned as text.",
        ) if templated else None,
    )  # fmt: skip
    return [finding for finding in found if finding]


def count_of(number: int, audit: Audit) -> str:
    """Return "12 of 200 examples (6 %)"."""
    return f"{number:,} of {audit.num_examples:,} examples ({percent(number / max(audit.num_examples, 1))})"
