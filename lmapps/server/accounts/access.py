"""Settings and accounts -> to whom the server is open."""

from __future__ import annotations

from dataclasses import dataclass

from lmapps.engine.backends.backend import Backend
from lmapps.errors import SettingsError
from lmapps.server.accounts.quotas import Limits, Quotas
from lmapps.server.accounts.users import Users
from lmapps.server.settings import ServeSettings
from lmapps.server.store.database import Database


@dataclass(frozen=True)
class Access:
    """Everybody, or whoever has an account."""

    users: Users | None = None
    """None = nobody has an account, and everybody comes in."""
    quotas: Quotas | None = None
    admins: bool = True
    """Whether those without an account may do what an admin may."""

    def metered(self, backend: Backend) -> Backend:
        """The backend, counting what it does for accounts."""
        return self.quotas.metered(backend) if self.quotas else backend

    def limit(self, settings: ServeSettings) -> None:
        """What a user may have from now on, where nothing else is set for them."""
        if self.quotas:
            self.quotas.limits = _limits(settings)

    def check_open(self, settings: ServeSettings) -> None:
        """Raises `SettingsError` where nobody has an account nor said that everybody is meant."""
        if self.users is not None or not self.admins:
            return
        names = " ".join(settings.hosts)
        to_whom = (
            f"--hosts {names} everybody whom a proxy passes on"
            if names
            else (f"--host {settings.host} everybody in the network")
        )
        raise SettingsError(
            f"with {to_whom} could use this server: make an account first (`lmapps users add "
            "NAME`), or say --public if that is meant"
        )

    def close(self) -> None:
        if self.quotas:
            self.quotas.close()


def access_of(settings: ServeSettings, database: Database) -> Access:
    """Accounts count as soon as there is one. Raises `SettingsError` where there is none and the
    server would be open to a network without anybody having said so."""
    users = Users(database)
    if users.exist:
        return Access(users, Quotas(database, _limits(settings)), admins=False)
    access = Access(admins=not settings.public)
    if not settings.is_local:
        access.check_open(settings)
    return access


def _limits(settings: ServeSettings) -> Limits:
    return Limits(settings.requests_a_minute, settings.tokens_a_day)
