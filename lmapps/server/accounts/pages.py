"""Requests of a browser -> the login and the account page: small, our own, without script."""

from __future__ import annotations

import math
from functools import partial
from typing import Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, RedirectResponse, Response

from lmapps.errors import InputError, LmappsError
from lmapps.server.accounts.attempts import Attempts, limits_of
from lmapps.server.accounts.door import COOKIE, NotTheirs
from lmapps.server.accounts.quotas import Quotas
from lmapps.server.accounts.rendered import NO_STORE, page_of, root_of
from lmapps.server.accounts.users import SESSION_SECONDS, Account, Users, normal_name
from lmapps.server.api.protocol import read_body
from lmapps.server.page.languages import translated, word_for
from lmapps.server.store.aside import at_the_door
from lmapps.server.who import who

MOST_BYTES = 10_000
"""Of a form."""
MOST_NAME = 65
"""Characters by which failures are counted: one more than a name has, since nobody is called so."""


class TooManyAttempts(LmappsError):
    """Somebody guesses passwords."""

    status = 429


def account_routes(users: Users, quotas: Quotas) -> APIRouter:
    """`/login`, `/logout`, `/account` and what the forms on it do."""
    routes, attempts = APIRouter(include_in_schema=False), Attempts()
    _add_login(routes, users, attempts)
    _add_account(routes, users, quotas, attempts)
    return routes


def _add_login(routes: APIRouter, users: Users, attempts: Attempts) -> None:
    @routes.get("/login")
    async def login_page(request: Request) -> Response:
        if who(request).account:
            return _to(request, "/")
        return page_of(request, "login")

    @routes.post("/login")
    async def log_in(request: Request) -> Response:
        form, word = await _form(request), partial(word_for, request)
        name, password = form.get("name", ""), form.get("password", "")
        limits = limits_of(
            normal_name(name)[:MOST_NAME], request.client.host if request.client else ""
        )
        wait = attempts.begin(limits)
        if wait:
            minutes = math.ceil(wait / 60)
            told = word("Too many attempts: try again in {minutes} minutes.", minutes=minutes)
            page = page_of(request, "login", 429, told=told, name=name)
            page.headers["Retry-After"] = str(math.ceil(wait))
            return page
        account = await at_the_door(users.known, name, password)
        if account is None:
            told = word("The name or the password is not right.")
            return page_of(request, "login", 401, told=told, name=name)
        attempts.succeeded(limits)
        return await _entered(request, users, account)

    @routes.post("/logout")
    async def log_out(request: Request) -> Response:
        token = request.cookies.get(COOKIE)
        if token:
            await at_the_door(users.end_session, token)
        answer = _to(request, "/login")
        answer.delete_cookie(COOKIE, path=root_of(request) or "/")
        return answer


def _add_account(routes: APIRouter, users: Users, quotas: Quotas, attempts: Attempts) -> None:
    @routes.get("/account")
    async def account_page(request: Request) -> Response:
        return await _account_page(request, users, quotas)

    @routes.get("/account/usage")
    async def usage(request: Request) -> Response:
        """What the user, and the key that was shown, have had of what they may have."""
        account = _account(request)
        found = await at_the_door(quotas.usage, account)
        named = dict(zip(("user", "key"), map(vars, found), strict=False))
        return JSONResponse({"name": account.name, "role": account.role, **named})

    @routes.post("/account/password")
    async def change_password(request: Request) -> Response:
        form, account = await _form(request), _logged_in(request)
        limits = limits_of(account.name, "account")
        if attempts.begin(limits):
            raise TooManyAttempts("too many attempts: try again in a quarter of an hour")
        show, word = partial(_account_page, request, users, quotas), partial(word_for, request)
        if await at_the_door(users.known, account.name, form.get("password", "")) is None:
            told = word("The password is not right.")
            return await show(told=told, failed=True, status=403)
        attempts.succeeded(limits)
        try:
            await at_the_door(users.set_password, account.name, form.get("new", ""))
        except InputError as error:
            return await show(told=translated(error, word), failed=True, status=error.status)
        return await _entered(request, users, account, "/account")

    @routes.post("/account/keys")
    async def make_key(request: Request) -> Response:
        name, account = (await _form(request)).get("name", ""), _logged_in(request)
        try:
            made = await at_the_door(users.add_key, account.name, name)
        except InputError as error:
            told, status = translated(error, partial(word_for, request)), error.status
            return await _account_page(
                request, users, quotas, told=told, failed=True, status=status
            )
        return await _account_page(request, users, quotas, made=made)

    @routes.post("/account/keys/revoke")
    async def revoke_key(request: Request) -> Response:
        name = (await _form(request)).get("name", "")
        await at_the_door(users.revoke, _logged_in(request).name, name)
        return _to(request, "/account")


async def _entered(request: Request, users: Users, account: Account, page: str = "/") -> Response:
    """A new session, in a cookie that no script and no other site's request can use."""
    token = await at_the_door(users.begin_session, account)
    answer = _to(request, page)
    answer.set_cookie(
        COOKIE, token, max_age=SESSION_SECONDS, path=root_of(request) or "/", httponly=True,
        samesite="lax", secure=request.url.scheme == "https",
    )  # fmt: skip
    return answer


async def _account_page(
    request: Request, users: Users, quotas: Quotas, status: int = 200, **values: Any
) -> Response:
    account = _account(request)
    usage, *_ = await at_the_door(quotas.usage, account)
    values["used"] = await at_the_door(quotas.of_keys, account)
    keys = await at_the_door(users.keys, account.name)
    return page_of(request, "account", status, account=account, usage=usage, keys=keys, **values)


def _account(request: Request) -> Account:
    account = who(request).account
    assert account is not None, "the door lets nobody else to these addresses"
    return account


def _logged_in(request: Request) -> Account:
    """Who changes their account. Raises `NotTheirs` for an API key: it could make itself another
    one, without its limits, that is there when it was revoked."""
    account = _account(request)
    if account.key:
        raise NotTheirs("an API key changes no account: log in on the page")
    return account


async def _form(request: Request) -> dict[str, str]:
    """The fields of a form. Raises `InputError` for something else."""
    try:
        fields = parse_qs((await read_body(request, MOST_BYTES)).decode(), max_num_fields=10)
    except ValueError:
        raise InputError("the request's body is no form") from None
    return {name: values[-1] for name, values in fields.items()}


def _to(request: Request, path: str) -> RedirectResponse:
    return RedirectResponse(root_of(request) + path, 303, NO_STORE)
