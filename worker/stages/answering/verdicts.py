"""A language model at an endpoint as the judge: of pairs, in both orders, or of single answers."""

from collections.abc import Sequence
from pathlib import Path

from app.domain.answering.job import AnswersSpec, JudgeJob, OpponentSource
from app.domain.answering.judge import VerdictFacts
from app.domain.answering.prompt_set import Prompt, split_turns
from app.domain.answering.verdicts import (
    MOST_TOKENS,
    PairVerdict,
    Verdict,
    describe_grades,
    describe_pairs,
    read_grade,
    read_verdict,
    write_grade,
    write_pair,
)
from app.domain.errors import InvalidInput
from app.system.outgoing.chat import Question
from worker.stages.answering.kept import Row, read_opponents
from worker.stages.answering.replies import Replies
from worker.stages.job import JobContext

SPEAKERS = {"system": "Instructions", "user": "Person", "assistant": "Assistant"}


class LanguageModelJudge:
    """Judges part after part; what it says of pairs and of itself is kept in the lines of the scores."""

    def __init__(self, attempt: JobContext, spec: AnswersSpec, job: JudgeJob) -> None:
        if job.endpoint is None:
            raise InvalidInput.at("judges", "A language model judges, but the attempt's spec does not say where it is.")
        self._opponent: OpponentSource | None = job.opponent
        self._replies = Replies(attempt, Path(spec.verdicts_dir), job.endpoint)

    def close(self) -> None:
        self._replies.close()

    def score(self, prompts: Sequence[Prompt], rows: Sequence[Row]) -> list[Row]:
        """Return the lines of scores of a part's answers, in their order. Raises as `Replies.run_all`."""
        opponents = read_opponents(self._opponent, [prompt.index for prompt in prompts]) if self._opponent else {}
        by_index = {prompt.index: prompt for prompt in prompts}
        jobs = {
            (row["index"], row["draw"]): PairOrGrade(
                self._replies, by_index[row["index"]], row, opponents.get(row["index"], []), is_pair=self._opponent is not None
            ).judge
            for row in rows
        }
        found = dict(self._replies.run_all(jobs))
        self._replies.refuse_mute()
        return [found[row["index"], row["draw"]] for row in rows]


class PairOrGrade:
    """One answer before the judge. Against several answers of the other model it meets the one of its own draw, in turn."""

    def __init__(self, replies: Replies, prompt: Prompt, row: Row, opponents: Sequence[Row], *, is_pair: bool) -> None:
        self._replies, self._row, self._is_pair = replies, row, is_pair
        self._request = write_request(prompt, row.get("earlier", ()))
        self._other = opponents[row["draw"] % len(opponents)]["text"] if opponents else None

    def judge(self) -> Row:
        """Return the line of the score."""
        line: Row = {"index": self._row["index"], "draw": self._row["draw"]}
        if not self._is_pair:
            return {**line, "score": self._grade()}
        if self._other is None:  # the other model has no answer to this prompt
            return {**line, "score": None}
        first, second = self._compare()
        return {**line, "score": PairVerdict(line["index"], first, second).score, "first": first, "second": second}

    def _grade(self) -> float | None:
        reply = self._ask(write_grade(self._request, self._row["text"]))
        return None if reply is None else read_grade(reply)

    def _compare(self) -> tuple[Verdict | None, Verdict | None]:
        mine, other = self._row["text"], self._other or ""
        if mine == other:
            return "tie", "tie"
        first = self._ask(write_pair(self._request, mine, other))
        second = self._ask(write_pair(self._request, other, mine))
        return (
            None if first is None else read_verdict(first, is_first=True),
            None if second is None else read_verdict(second, is_first=False),
        )

    def _ask(self, text: str) -> str | None:
        reply = self._replies.ask(Question(({"role": "user", "content": text},), MOST_TOKENS, temperature=0.0, seed=0))
        return None if reply is None else reply.text


def write_request(prompt: Prompt, earlier: Sequence[str]) -> str:
    """Return the conversation before the answer: its text alone where it is one question, else who says what."""
    if len(prompt.messages) == 1:
        return prompt.messages[0].content
    lines, said = [], list(earlier)
    for place, part in enumerate(split_turns(prompt.messages)):
        lines += [f"{SPEAKERS.get(message.role, message.role)}: {message.content}" for message in part]
        lines += [f"Assistant: {said[place]}"] if place < len(said) else []
    return "\n\n".join(lines)


def describe_lines(lines: Sequence[Row], *, is_pair: bool) -> VerdictFacts:
    """Return what all lines of scores say of the judge."""
    if is_pair:
        return describe_pairs([PairVerdict(row["index"], row["first"], row["second"]) for row in lines if "first" in row])
    return describe_grades([row["score"] for row in lines])
