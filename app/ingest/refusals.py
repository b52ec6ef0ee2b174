"""Files that hold no rows with a preference, refused by what they are."""

from typing import Any

from app.domain.errors import DatasetInvalid
from app.ingest.shapes import ORDINARY, PROMPT_NAMES, RESPONSE_NAMES
from app.ingest.survey import MESSAGES, Survey

WITHOUT_PREFERENCE = {
    *PROMPT_NAMES, *RESPONSE_NAMES, "system", "system_prompt", "history", "turns", "reference", "category", "source", "id", "idx",
    "question_id", "prompt_id", "language", "lang", "task", "topic", "context", "text", "split", "title", "metadata", "meta",
}  # fmt: skip


def refuse_hopeless(survey: Survey) -> None:
    """Raise DatasetInvalid for a file that no mapping can help: columns instead of rows, or nothing that prefers."""
    refuse_columns(survey)
    refuse_without_preference(survey)


def refuse_columns(survey: Survey) -> None:
    """Raise DatasetInvalid for one object that holds a table column by column, as pandas writes it unless asked otherwise."""
    if len(survey.sample) != 1:
        return
    row = survey.sample[0]
    if row.keys() >= {"columns", "data"} or (len(row) > 1 and (all(map(is_column, row.values())) or are_columns(row))):
        raise DatasetInvalid(
            f"The file holds one object with a table column by column ({', '.join(survey.top())[:200]}), not row by row. "
            'Write it row by row: in pandas with to_json(…, orient="records", lines=True).'
        )


def is_column(value: Any) -> bool:
    """Return whether a value is an object whose keys are the numbers of rows."""
    return isinstance(value, dict) and bool(value) and all(key.isdecimal() for key in value)


def are_columns(row: dict[str, Any]) -> bool:
    """Return whether all values are lists of one length, that of the prompt too, with texts in it."""
    prompts = next((value for name, value in row.items() if name.lower() in PROMPT_NAMES), None)
    if not isinstance(prompts, list) or not all(isinstance(prompt, str) for prompt in prompts):
        return False
    return {len(value) if isinstance(value, list) else 0 for value in row.values()} == {len(prompts)} and len(prompts) > 1


def refuse_without_preference(survey: Survey) -> None:
    """Raise DatasetInvalid when no column could tell which response is better."""
    names = [name for name in survey.top() if survey.kind(name) != "empty"]
    if not names or not all(name.lower() in WITHOUT_PREFERENCE or ORDINARY.fullmatch(name) for name in names):
        return
    if any(survey.kind(name) == MESSAGES for name in names) or any(name.lower() in RESPONSE_NAMES for name in names):
        raise DatasetInvalid(
            f"These are prompts with one answer each (columns {', '.join(names)}), without any preference: VAR needs a second, "
            "rejected response per prompt, or a rating or label for each response."
        )
    raise DatasetInvalid(
        f"These are prompts without responses (columns {', '.join(names)}): VAR needs responses with a preference, "
        "rating or label."
    )
