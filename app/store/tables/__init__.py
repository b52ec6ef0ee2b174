"""The tables. States and words are those of app.domain; every change of a table comes with a migration."""

from app.store.tables.accounts import Act, Token, User
from app.store.tables.answering import Answers, Judgement, PromptSet
from app.store.tables.chats import Chat, ChatEntry
from app.store.tables.comparing import Comparison, Vote, VoteLink, Voter
from app.store.tables.endpoints import Endpoint
from app.store.tables.ingredients import Dataset, Model, RecipeTemplate
from app.store.tables.owned import Owned
from app.store.tables.runs import Attempt, JournalEntry, Metric, MetricSpan, Run, RunTag, Worker
from app.store.tables.schema import Base, Json, UtcDateTime
from app.store.tables.scorings import Preview, Scoring, Sweep

__all__ = [
    "Act",
    "Answers",
    "Attempt",
    "Base",
    "Chat",
    "ChatEntry",
    "Comparison",
    "Dataset",
    "Endpoint",
    "JournalEntry",
    "Json",
    "Judgement",
    "Metric",
    "MetricSpan",
    "Model",
    "Owned",
    "Preview",
    "PromptSet",
    "RecipeTemplate",
    "Run",
    "RunTag",
    "Scoring",
    "Sweep",
    "Token",
    "User",
    "UtcDateTime",
    "Vote",
    "VoteLink",
    "Voter",
    "Worker",
]
