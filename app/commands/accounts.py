"""Users, tokens, login links and the database's tables: on the server's own machine, straight to its database."""

from typing import Annotated

import typer

from app.commands.terminal import out, table
from app.services import accounts as service
from app.settings import Settings
from app.store import accounts as store
from app.store.database import Database

users = typer.Typer(no_args_is_help=True, help="Who may come in.")
tokens = typer.Typer(no_args_is_help=True, help="Bearer tokens for the API and the command line.")
db = typer.Typer(no_args_is_help=True, help="The database's tables.")

UserName = Annotated[str, typer.Option("--user", help="Whose.")]


def open_database(settings: Settings) -> Database:
    """Return the database; the embedded one is made when it isn't there."""
    database = Database(settings)
    if not settings.database_url:
        database.migrate()
    return database


def link(settings: Settings, secret: str) -> str:
    return f"{settings.url}/login/{secret}"


@users.command("add")
def add_user(name: str, role: Annotated[str, typer.Option(help="admin or member")] = "member") -> None:
    """Add a user; prints the link that signs them in once."""
    settings = Settings()
    with open_database(settings).writing() as session:
        secret = service.create_login_link(session, service.create_user(session, name, role))
    out.print(f"{name} may sign in once, within {service.LOGIN_LINK_HOURS} hours:\n{link(settings, secret)}", markup=False)


@users.command("list")
def list_users() -> None:
    """List the users."""
    with open_database(Settings()).reading() as session:
        rows = [(user.name, user.role, f"{user.created_at:%Y-%m-%d %H:%M}") for user in store.list_users(session)]
    table("name", "role", "since", rows=rows)


@tokens.command("create")
def create_token(
    user: UserName = "admin",
    name: Annotated[str, typer.Option(help="What the token is for.")] = "",
    scope: Annotated[str, typer.Option(help="read or write")] = "write",
    days: Annotated[int | None, typer.Option(min=1, max=3650, help="Ends after so many days; empty: never.")] = None,
) -> None:
    """Make a bearer token; it is shown this once."""
    with open_database(Settings()).writing() as session:
        owner = service.ensure_admin(session) if user == "admin" else store.get_user(session, user)
        secret = service.create_token(session, owner, name, scope, days)
    out.print(secret, markup=False)


def login_link(user: UserName = "admin") -> None:
    """Make a link that signs a user in once, within a day."""
    settings = Settings()
    with open_database(settings).writing() as session:
        owner = service.ensure_admin(session) if user == "admin" else store.get_user(session, user)
        secret = service.create_login_link(session, owner)
    out.print(link(settings, secret), markup=False)


@db.command("upgrade")
def upgrade() -> None:
    """Bring the tables to this version. May be repeated."""
    Database(Settings()).migrate()
    out.print("The database is of this version.")
