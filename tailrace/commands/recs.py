"""`tailrace recs USER` and `tailrace similar ITEM`."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from clients.reader import Recommendations
from flink_jobs.settings import Settings, load
from schemas.ids import user_key
from schemas.records import DEFAULT_TENANT
from schemas.refusal import Refused
from tailrace.commands.options import Config, Json
from tailrace.connections import reader, store
from tailrace.errors import ExitCode, UserError
from tailrace.list_view import UNKNOWN, Titled, Titles, age, list_table

User = Annotated[str, typer.Argument(help="The user's id.")]
Tenant = Annotated[str, typer.Option(help="Whose user.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(recs)
    app.command()(similar)


def recs(
    user: User,
    config: Config = None,
    tenant: Tenant = DEFAULT_TENANT,
    explain: Annotated[
        bool, typer.Option("--explain", help="Why each item: source, features, rules, exploration, model.")
    ] = False,
    rec_id: Annotated[
        str | None, typer.Option("--rec-id", help="Explain this list of the user, also one no longer stored.")
    ] = None,
    item: Annotated[
        list[str] | None,
        typer.Option("--item", help="Explain this item too, in the list or not; more than once for more."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show a user's list as a reader gets it, with titles.

    `source` of the list is personal, stale, or popular for a user of whom nothing is stored. `propensity` is
    the probability with which exploration let that source fill that slot. `--rec-id` explains a list from
    recs.served.v1 or the lake instead.

    Exit code 1 when there is neither a personal nor a popular list.
    """
    settings = load(config)
    if rec_id is not None:
        _explain_stored(settings, user, tenant, rec_id, item or [], as_json)
        return
    with reader(settings) as lists, store(settings) as client:
        try:
            found = lists.get(user, tenant)
        except Refused as refused:
            raise UserError("TR-321", str(refused), exit_code=ExitCode.USAGE) from refused
        if not found.items:
            raise UserError(
                "TR-320",
                f"user {user!r}: no list, and no popular items either",
                "no model serves, or the store was emptied",
                "tailrace models ls; tailrace republish",
            )
        titles = Titles(settings, client, tenant).of([*(one.item_id for one in found.items), *(item or ())])
    why = None
    if explain or item:
        from tailrace.explanation import explain_list  # the ranking kernels take a second to load

        why = explain_list(settings, tenant, user, found, item or ())
    if as_json:
        typer.echo(json.dumps(_as_dict(user, tenant, found, titles, why and why.as_dict()), default=str))
        return
    console = Console(highlight=False)
    console.print(headline(user, found), markup=False, soft_wrap=True)
    console.print(list_table(found, titles))
    if why is not None:
        why.show(console, titles)


def _explain_stored(
    settings: Settings, user: str, tenant: str, rec_id: str, also: list[str], as_json: bool
) -> None:
    from tailrace.explanation import explain_record
    from tailrace.served_lists import stored_list

    record = stored_list(settings, user_key(tenant, user), rec_id)
    why = explain_record(settings, record, record.items, also=also)
    if as_json:
        typer.echo(json.dumps({"user_id": user, "tenant": tenant, "explain": why.as_dict()}))
        return
    with store(settings) as client:
        titles = Titles(settings, client, tenant).of([*(one.item_id for one in record.items), *also])
    why.show(Console(highlight=False), titles)


def similar(
    item: Annotated[str, typer.Argument(help="The item's id.")],
    config: Config = None,
    count: Annotated[int, typer.Option("-n", min=1, max=100, help="How many.")] = 10,
    tenant: Tenant = DEFAULT_TENANT,
    bought: Annotated[
        bool,
        typer.Option("--bought", help="What is bought in one session with it; needs the similarity job."),
    ] = False,
    as_json: Json = False,
) -> None:
    """Show the items most like one, with titles; those out of stock are left out.

    The score is the cosine of sessions with both, or what the model bundle says where the similarity job has not
    met the item. With `--bought` it is the share of sessions that bought the item where the other was bought too.

    Exit code 1 when nothing is known of the item.
    """
    settings = load(config)
    with reader(settings) as lists, store(settings) as client:
        try:
            found = (lists.bought_with if bought else lists.similar)(item, tenant, count)
        except Refused as refused:
            raise UserError("TR-321", str(refused), exit_code=ExitCode.USAGE) from refused
        titles = Titles(settings, client, tenant).of([item, *(item_id for item_id, _ in found)])
    if not found:
        raise UserError(
            "TR-330",
            f"item {item!r}: nothing is {'bought with' if bought else 'like'} it",
            "no model that serves knows it, and the similarity job has not met it or does not run",
            "tailrace models ls; tailrace submit similarity",
        )
    rows = [
        {"item_id": item_id, "title": titles[item_id].title, "category": titles[item_id].category,
         "score": score}
        for item_id, score in found
    ]  # fmt: skip
    if as_json:
        typer.echo(json.dumps({"item_id": item, "title": titles[item].title, "similar": rows}))
        return
    console = Console(highlight=False)
    console.print(f"{item} {titles[item].title}", markup=False)
    table = Table(box=None, header_style="bold")
    for title in ("item", "title", "category", "score"):
        table.add_column(title, justify="right" if title == "score" else "left")
    for row in rows:
        table.add_row(str(row["item_id"]), str(row["title"]), str(row["category"]), f"{row['score']:.4g}")
    console.print(table)


def headline(user: str, found: Recommendations) -> str:
    """Give the line above a list."""
    if found.as_of is None:
        return f"{user}: popular items (no personal list), model {found.model_version or 'none'}"
    as_of = datetime.fromtimestamp(found.as_of / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")
    old = "" if found.age_ms is None else f", {age(found.age_ms)} old"
    return f"{user}: {found.source} list {found.rec_id}, model {found.model_version}, as of {as_of} UTC{old}"


def _as_dict(
    user: str,
    tenant: str,
    found: Recommendations,
    titles: dict[str, Titled],
    why: dict[str, Any] | None,
) -> dict[str, Any]:
    items = [
        item._asdict() | titles.get(item.item_id, UNKNOWN)._asdict() | {"place": place}
        for place, item in enumerate(found.items, 1)
    ]
    fields = {"user_id": user, "tenant": tenant} | found._asdict() | {"items": items}
    return fields if why is None else fields | {"explain": why}
