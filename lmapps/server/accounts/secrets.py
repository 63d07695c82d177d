"""Passwords and random tokens -> what the database keeps of them, from which nobody gets in."""

from __future__ import annotations

import hashlib
import secrets
import threading
from functools import cache

from lmapps.errors import InputError
from lmapps.sentence import Sentence

SHORTEST, LONGEST = 8, 256
"""Characters of a password."""
AT_ONCE = 2
"""Passwords that are tried at the same time: each takes 64 MiB for a moment."""
KEY_PREFIX = "lmapps-"
"""Every API key begins so, that a scanner for secrets knows one in a repository."""

_turns = threading.Semaphore(AT_ONCE)


def check_password(password: str, name: str) -> None:
    """Raises `InputError` for a new password that is no password."""
    if not SHORTEST <= len(password) <= LONGEST:
        raise InputError(
            "a password has between {least} and {most} characters, got {count}",
            least=SHORTEST,
            most=LONGEST,
            count=len(password),
        )
    if password.casefold() == name.casefold():
        raise InputError(Sentence("a password must not be the name: choose another one"))


def hashed_password(password: str) -> str:
    """Argon2id with the settings that its authors recommend, and a salt (RFC 9106, section 4)."""
    with _turns:
        return str(_hasher().hash(password))


def is_password(hashed: str | None, password: str) -> bool:
    """Whether it is the password. None = nobody's: that takes as long as a wrong one, so that the
    time says nothing about which names there are."""
    from argon2.exceptions import InvalidHashError, VerificationError

    if len(password) > LONGEST:
        password = ""
    with _turns:
        try:
            return bool(_hasher().verify(hashed or _nobodys(), password)) and hashed is not None
        except (VerificationError, InvalidHashError):
            return False


def new_token() -> str:
    """256 random bits, for a session."""
    return secrets.token_urlsafe(32)


def new_key() -> str:
    """256 random bits, for an API key."""
    return KEY_PREFIX + secrets.token_urlsafe(32)


def hashed_token(token: str) -> str:
    """SHA-256. A slow hash protects what people think of, which can be guessed; 256 random bits
    cannot, and a plain hash can be looked up in an index."""
    return hashlib.sha256(token.encode(errors="replace")).hexdigest()


@cache
def _hasher():  # type: ignore[no-untyped-def]
    from argon2 import PasswordHasher

    return PasswordHasher()


@cache
def _nobodys() -> str:
    return str(_hasher().hash(secrets.token_urlsafe(32)))
