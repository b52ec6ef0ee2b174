"""Plays the worker that reads: every word is a token, and the data set's texts are of made-up lengths."""

import re

from app.domain.preview.readings import (
    AnswerReading,
    AnyReading,
    ConversationReading,
    ConversationRequest,
    ExampleReading,
    ExampleRequest,
    LeftOut,
    LengthCounts,
    LengthsReading,
    Part,
    ReadingJob,
    Stops,
    TextToken,
    TokenRun,
    TokenView,
)
from tests.browser.studio import CURT, KIND, PROMPTS

NOTE = "The chat template leaves out reasoning, tool calls, tools."
REFUSAL = LeftOut(reason="the chat template refuses it: no system turn, please", count=12, lines=[3, 8, 13, 21, 34])


def tokens_of(text: str) -> tuple[TextToken, ...]:
    words = re.findall(r"<\|\w+\|>|\n|\s?\S+?(?=<\||\s|$)", text)
    return tuple(TextToken(id=100 + place, text=word, control=word.startswith("<|")) for place, word in enumerate(words))


def run(part: Part, text: str, most: int = 10_000) -> TokenRun:
    tokens = tokens_of(text)[:most]
    return TokenRun(part=part, num_tokens=len(tokens), head=tokens)


def view(prompt: str, answer: str, most: int = 10_000) -> TokenView:
    is_cut = len(tokens_of(answer)) >= most
    runs = [run("prompt", f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"), run("answer", answer, most)]
    return TokenView(runs=runs if is_cut else [*runs, run("end", "<|im_end|>")], answer_cut=is_cut)


def answer_reading(job: ReadingJob) -> AnyReading:
    request = job.request
    if isinstance(request, ConversationRequest):
        *turns, answer = request.messages
        return ConversationReading(
            format="chat", view=view(turns[-1].content, answer.content), notes=[NOTE],
            stops=Stops(tokens=tokens_of("<|im_end|>")) if job.kind == "policy" else None,
        )  # fmt: skip
    if isinstance(request, ExampleRequest):
        answers = [
            AnswerReading(
                response=number, preference=1 - 2 * number, rating=None,
                learned=view(PROMPTS[request.example], text, request.max_response),
                read=TokenView(runs=[run("read", f"{PROMPTS[request.example]} {text}")]) if request.reward_id else None,
            )
            for number, text in enumerate((KIND, CURT))
        ]  # fmt: skip
        return ExampleReading(
            example=request.example, line=request.example + 1, num_examples=640, num_answers=2, answers=answers,
            max_prompt=request.max_prompt, max_response=request.max_response,
        )  # fmt: skip
    return LengthsReading(
        num_examples=640, num_sampled=640, window=8192, tokenizer_sha256="0" * 64, refused=(REFUSAL,) if request.whole else (),
        prompts=LengthCounts.of([] if request.whole else [40 + k % 160 for k in range(640)]),
        responses=LengthCounts.of([20 + k % 400 for k in range(1280)]),
    )  # fmt: skip
