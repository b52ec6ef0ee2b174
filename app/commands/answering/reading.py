"""Commands that read what stands in prompt sets and answers, over REST."""

from typing import Annotated, Any

import typer

from app.commands.client import AsJson, Client
from app.commands.terminal import head, out, say
from app.settings import Settings
from app.system.numbers import number

Start = Annotated[int, typer.Option(min=0, help="Number of the first prompt, from 0.")]
Limit = Annotated[int, typer.Option(min=1, max=200, help="At most so many prompts.")]


def prompts(prompt_set_id: str, start: Start = 0, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Read the prompts of a set."""
    found = Client(Settings()).get(f"/prompt-sets/{prompt_set_id}/prompts", start=start, limit=limit)
    if as_json:
        out.print_json(data=found)
        return
    for prompt in found:
        head(f"Prompt {prompt['index']}")
        for message in prompt["messages"]:
            say(f"{message['role']}: {message['content']}")
        if prompt["reference"] is not None:
            say(f"reference: {prompt['reference']}")


def answers(answers_id: str, start: Start = 0, limit: Limit = 20, as_json: AsJson = False) -> None:
    """Read the answers by prompt and draw, with what each judge gave."""
    client = Client(Settings())
    found = client.get(f"/answers/{answers_id}/answers", start=start, limit=limit)
    if as_json:
        out.print_json(data=found)
        return
    names = {judge["key"]: judge["name"] for judge in client.get(f"/answers/{answers_id}")["judgements"]}
    for answer in found:
        head(f"Prompt {answer['index']}, answer {answer['draw']}{tell_scores(answer['scores'], names)}")
        for text in (*answer["earlier"], answer["text"]):
            say(text)


def tokens(answers_id: str, prompt: Annotated[int, typer.Option(min=0, help="Number of the prompt, from 0.")] = 0) -> None:
    """Read the tokens of the answers to one prompt, as JSON: ids and log-probabilities under the model itself."""
    out.print_json(data=Client(Settings()).get(f"/answers/{answers_id}/tokens/{prompt}"))


def tell_scores(scores: dict[str, Any], names: dict[str, str]) -> str:
    """Return `: Length 12, Kind 0.412`, or nothing where nobody has judged."""
    told = ", ".join(f"{names[key]} {number(score)}" for key, score in scores.items() if key in names)
    return f": {told}" if told else ""
