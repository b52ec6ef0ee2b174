"""Users, tokens, login links, the log of acts, and the tables: on the server's own machine, straight to its database."""

from datetime import datetime
from typing import Annotated

import typer

from app.commands.client import find_address
from app.commands.terminal import out, table
from app.services import accounts as service
from app.services import users as user_service
from app.services.acts import KINDS, at_the_server
from app.settings import Settings
from app.store import accounts as store
from app.store.database import Database, now

users = typer.Typer(no_args_is_help=True, help="Who may come in.")
tokens = typer.Typer(no_args_is_help=True, help="Bearer tokens for the API and the command line.")
db = typer.Typer(no_args_is_help=True, help="The database's tables.")

UserName = Annotated[str, typer.Option("--user", help="Whose.")]
Yes = Annotated[bool, typer.Option("--yes", help="Don't ask.")]


def open_database(settings: Settings) -> Database:
    """Return the database; the embedded one is made when it isn't there."""
    database = Database(settings)
    if not settings.database_url:
        database.migrate()
    return database


def link(settings: Settings, secret: str) -> str:
    return f"{find_address(settings)}/login/{secret}"


def minute(at: datetime | None, absent: str = "") -> str:
    return absent if at is None else f"{at:%Y-%m-%d %H:%M}"


@users.command("add")
def add_user(name: str, role: Annotated[str, typer.Option(help="admin or member")] = "member") -> None:
    """Add a user; prints the link that signs them in once."""
    settings, actor = Settings(), at_the_server()
    with open_database(settings).writing() as session:
        user = service.create_user(session, name, role, actor=actor)
        secret = service.create_login_link(session, user, actor=actor)
    out.print(f"{name} may sign in once, within {service.LOGIN_LINK_HOURS} hours:\n{link(settings, secret)}", markup=False)


@users.command("list")
def list_users(removed: Annotated[bool, typer.Option("--removed", help="Removed ones too.")] = False) -> None:
    """List the users: with how many browsers are signed in, and how many tokens are good."""
    with open_database(Settings()).reading() as session:
        rows = [
            (row.user.name, row.user.role, row.state, row.num_sessions, row.num_tokens, minute(row.user.created_at))
            for row in store.describe_users(session, now(session))
            if removed or row.state != "removed"
        ]
    table("name", "role", "state", "browsers", "tokens", "since", rows=rows)


@users.command("disable")
def disable_user(name: str) -> None:
    """Let a user in no more: browsers are signed out, tokens refused, until the account is enabled. Runs go on."""
    with open_database(Settings()).writing() as session:
        user_service.disable(session, at_the_server(), store.get_user(session, name).id)
    out.print(f"{name} is disabled. To let them in again: varstudio users enable {name}", markup=False)


@users.command("enable")
def enable_user(name: str) -> None:
    """Let a disabled user in again; a new login link is made with varstudio login-link."""
    with open_database(Settings()).writing() as session:
        user_service.enable(session, at_the_server(), store.get_user(session, name).id)
    out.print(f"{name} is enabled. A login link: varstudio login-link --user {name}", markup=False)


@users.command("role")
def change_role(name: str, role: Annotated[str, typer.Argument(help="admin or member")]) -> None:
    """Make a user an admin, or a member."""
    with open_database(Settings()).writing() as session:
        user_service.change_role(session, at_the_server(), store.get_user(session, name).id, role)
    out.print(f"{name} is {role}.", markup=False)


@users.command("remove")
def remove_user(name: str, yes: Yes = False) -> None:
    """Remove a user for good: sign-ins and tokens end, unfinished runs are cancelled; what they made stays."""
    if not yes:
        typer.confirm(
            f"Remove {name}? Their sign-ins and tokens end and their unfinished runs are cancelled.", abort=True, err=True
        )
    with open_database(Settings()).writing() as session:
        user_service.remove(session, at_the_server(), store.get_user(session, name).id)
    out.print(f"{name} is removed. What they made stays.", markup=False)


@users.command("sign-out")
def sign_out_user(
    name: str, with_tokens: Annotated[bool, typer.Option("--tokens", help="Revoke the API tokens too.")] = False
) -> None:
    """Sign a user out everywhere: browsers and login links, and API tokens where that is asked for."""
    with open_database(Settings()).writing() as session:
        user = store.get_user(session, name)
        num_ended = user_service.sign_out_everywhere(session, at_the_server(), user.id, tokens=with_tokens)
    out.print(f"{name} is signed out: {num_ended} ended.", markup=False)


@tokens.command("create")
def create_token(
    user: UserName = "admin",
    name: Annotated[str, typer.Option(help="What the token is for.")] = "",
    scope: Annotated[str, typer.Option(help="read or write")] = "write",
    days: Annotated[
        int | None, typer.Option(min=0, max=3650, help="Ends after so many days; 0: never; empty: as STUDIO_TOKEN_DAYS says.")
    ] = None,
) -> None:
    """Make a bearer token; it is shown this once."""
    settings = Settings()
    lifetime = settings.token_days if days is None else days
    with open_database(settings).writing() as session:
        owner = service.ensure_admin(session) if user == "admin" else store.get_user(session, user)
        secret = service.create_token(session, owner, name, scope, lifetime, actor=at_the_server())
    out.print(secret, markup=False)


@tokens.command("list")
def list_tokens(user: Annotated[str | None, typer.Option("--user", help="Whose; empty: everybody's.")] = None) -> None:
    """List the API tokens; secrets are kept nowhere."""
    with open_database(Settings()).reading() as session:
        only = None if user is None else store.get_user(session, user).id
        at = now(session)
        rows = [
            (token.id, owner.name, token.name, token.scope, minute(token.created_at), ends(token.expires_at, at))
            for owner, token in store.list_all_tokens(session)
            if only is None or owner.id == only
        ]
    table("id", "user", "name", "scope", "made", "ends", rows=rows)


def ends(expires_at: datetime | None, at: datetime) -> str:
    """Return when a token ends, in a table's words."""
    if expires_at is None:
        return "without expiry"
    return minute(expires_at) if expires_at > at else "has ended"


@tokens.command("rename")
def rename_token(token_id: Annotated[str, typer.Argument(help="From varstudio tokens list.")], name: str) -> None:
    """Give an API token another name."""
    with open_database(Settings()).writing() as session:
        service.change_token(session, at_the_server(), token_id, name=name)
    out.print(f"{token_id} is called “{name}”.", markup=False)


@tokens.command("expire")
def expire_token(
    token_id: Annotated[str, typer.Argument(help="From varstudio tokens list.")],
    days: Annotated[int, typer.Option(min=0, max=3650, help="Ends so many days from now; 0: never.")],
) -> None:
    """Give an API token another end."""
    with open_database(Settings()).writing() as session:
        _, token = service.change_token(session, at_the_server(), token_id, days=days)
        end = ends(token.expires_at, now(session))
    out.print(f"{token_id} ends: {end}", markup=False)


@tokens.command("revoke")
def revoke_token(token_id: Annotated[str, typer.Argument(help="From varstudio tokens list.")]) -> None:
    """End a token at once, with the streams and downloads that it opened."""
    with open_database(Settings()).writing() as session:
        service.revoke_token(session, at_the_server(), token_id)
    out.print(f"{token_id} is revoked.", markup=False)


def login_link(user: UserName = "admin") -> None:
    """Make a link that signs a user in once, within a day."""
    settings = Settings()
    with open_database(settings).writing() as session:
        owner = service.ensure_admin(session) if user == "admin" else store.get_user(session, user)
        secret = service.create_login_link(session, owner, actor=at_the_server())
    out.print(link(settings, secret), markup=False)


def list_acts(
    user: Annotated[str | None, typer.Option("--user", help="Only what they did, or was done about them.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="The newest so many.")] = 50,
) -> None:
    """Show the log of sign-ins, tokens and admins' acts: when, who, from where, what."""
    with open_database(Settings()).reading() as session:
        of = None if user is None else store.get_user(session, user).id
        found = store.list_acts(session, of=of, limit=limit)
        rows = [(f"{act.at:%Y-%m-%d %H:%M:%S}", act.actor, act.address, KINDS.get(act.kind, act.kind), act.text) for act in found]
    table("when (UTC)", "who", "from", "what", "", rows=rows)


@db.command("upgrade")
def upgrade() -> None:
    """Bring the tables to this version. May be repeated."""
    Database(Settings()).migrate()
    out.print("The database is of this version.")
