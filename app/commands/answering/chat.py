"""`varstudio chat`: one to three models answer a prompt while one watches, over REST."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated, Any

import httpx
import typer

from app.commands.client import Client, CommandFailed, Unreachable, as_json, check
from app.commands.events import parse_events
from app.commands.terminal import err, out
from app.settings import Settings

Models = Annotated[list[str], typer.Argument(help="One to three: model_…, run_…, or run_…@STEP for a checkpoint that is kept.")]
Prompt = Annotated[str, typer.Option("--prompt", "-p", help="What is asked; empty: read from standard input.")]
System = Annotated[str, typer.Option("--system", help="The system turn.")]
Reward = Annotated[str | None, typer.Option("--reward", help="A reward model, which scores each answer when it is done.")]
Longest = Annotated[int, typer.Option("--max-new-tokens", help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option("--temperature", help="0 takes the likeliest token each time.")]
TopP = Annotated[float, typer.Option("--top-p", help="Only the likeliest tokens that together have this probability.")]
Seed = Annotated[int, typer.Option("--seed", help="The same words with the same seed get the same answers.")]


def chat(
    models: Models, prompt: Prompt = "", system: System = "", reward: Reward = None, max_new_tokens: Longest = 256,
    temperature: Temperature = 1.0, top_p: TopP = 1.0, seed: Seed = 0,
) -> None:  # fmt: skip
    """Ask one to three models, and print what they say: of one at once, of several when all are done. Ctrl-C stops them."""
    said = prompt or sys.stdin.read()
    turns = [{"role": "system", "content": system}] if system else []
    sampling = {"max_new_tokens": max_new_tokens, "temperature": temperature, "top_p": top_p, "seed": seed}
    messages = [*turns, {"role": "user", "content": said}]
    client = Client(Settings())
    body = {"models": models, "messages": messages, "sampling": sampling, "reward": reward}
    with client.explained(), client.connect() as http, http.stream("POST", "/api/v1/chats", **as_json(body)) as response:
        if response.is_error:
            response.read()
        check(response)
        place = response.headers["location"].removeprefix("/api/v1")
        try:
            watch(parse_events(response.iter_lines()), is_alone=len(models) == 1)
        except (KeyboardInterrupt, httpx.HTTPError, Unreachable):
            with suppress(CommandFailed):
                client.post(f"{place}/stop")
            raise
    tell_end(client.get(place), is_alone=len(models) == 1)


def watch(events: Iterator[dict[str, str]], *, is_alone: bool) -> None:
    """Print what it waits for, and what the only model says."""
    said = ""
    for event in events:
        data: dict[str, Any] = json.loads(event["data"])
        kind, told = event.get("event"), data.get("payload", data)
        if kind == "waiting" and told["detail"]:
            err.print(told["detail"], style="dim", markup=False)
        elif kind == "loading":
            err.print(f"Loading {told['name']} …", style="dim", markup=False)
        elif kind == "spoken" and is_alone:
            out.print("\n" + told["text"] if told["is_whole"] else told["text"], end="", markup=False, highlight=False)
            said = told["text"] if told["is_whole"] else said + told["text"]
        elif kind == "answered" and is_alone:
            rest = told["text"].removeprefix(said) if told["text"].startswith(said) else f"\n{told['text']}"
            out.print(rest, markup=False, highlight=False)


def tell_end(chat: dict[str, Any], *, is_alone: bool) -> None:
    """Print the answers of several models, and each one's figures. Raises CommandFailed when there is none."""
    if chat["error"]:
        raise CommandFailed(chat["error"])
    for answer in chat["answers"]:
        if not is_alone:
            out.print(f"[bold]{answer['name']}[/bold]")
            out.print(answer["text"], markup=False, highlight=False)
        ended = answer["answered"]
        if ended is not None:
            rate = f", {(ended['num_tokens'] - 1) / ended['seconds']:.0f} a second" if ended["seconds"] > 0 else ""
            first = f", the first after {ended['first_seconds']:.2f} s" if ended["first_seconds"] is not None else ""
            reward = f", reward {answer['reward']:.3f}" if answer["reward"] is not None else ""
            err.print(f"{ended['num_tokens']} tokens{rate}{first}{reward}, {ended['end']}", style="dim", markup=False)
        if answer["declined"]:
            err.print(answer["declined"], markup=False)
    if all(answer["declined"] for answer in chat["answers"]):
        raise CommandFailed("No model has answered.")
