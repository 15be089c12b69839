"""Asks the provider again about a person with a session: what they may do follows it, and so does the session's end."""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog
from fastapi.concurrency import run_in_threadpool
from sqlalchemy import delete, update
from sqlalchemy.orm import Session

from app.auth import sessions
from app.auth.provider import Provider, ProviderAway, SignInRefused, VouchedFor
from app.auth.tables import PersonSession
from app.db import Database, now
from app.settings import Settings
from app.vault import Vault, VaultClosed

log = structlog.get_logger("app.sign_in")

#: For so long nobody else asks about the same session: longer than the provider may take for its three answers.
_ASKING: Final = timedelta(seconds=40)
#: Until the next try, where the provider was away.
_RETRY: Final = timedelta(seconds=60)
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True, slots=True)
class _Question:
    id: str
    subject: str
    refresh_token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Renewal:
    """Of sessions with a refresh token. Providers may take one only once, so one request asks, of all processes."""

    database: Database
    settings: Settings
    provider: Provider

    async def renew(self, token: str, *, wait: bool) -> None:
        """Has the session's row say what the provider says now. With `wait`, also where another request is asking."""
        question = await run_in_threadpool(self._take, sessions.digest(token))
        if question is None:
            if wait:
                await self._answered(sessions.digest(token))
            return
        try:
            vouched = await self.provider.ask_again(question.refresh_token, question.subject)
        except SignInRefused as refused:
            await run_in_threadpool(self._end, question.id, str(refused))
        except ProviderAway as away:
            await run_in_threadpool(self._put_off, question.id, str(away))
        else:
            await run_in_threadpool(self._store, question.id, vouched)

    def _take(self, id: str) -> _Question | None:
        """The right to ask; None where another request has it, or the session has ended."""
        with self.database.write() as session:
            at = now(session)
            mine = (PersonSession.id == id, PersonSession.check_at <= at)
            taken = session.execute(
                update(PersonSession)
                .where(*mine)
                .values(check_at=at + _ASKING)
                .returning(PersonSession.subject, PersonSession.refresh_token)
            ).one_or_none()
            if taken is None or taken.refresh_token is None:
                return None
            try:
                opened = Vault(self.settings.webhook_key_path).open(taken.refresh_token, row_id=id)
            except VaultClosed as closed:  # another key file by now: as good as no token
                _remove(session, id, str(closed))
                return None
        return _Question(id, taken.subject, opened.decode())

    def _store(self, id: str, vouched: VouchedFor) -> None:
        with self.database.write() as session:
            if (row := session.get(PersonSession, id)) is not None:  # signed out meanwhile
                sessions.vouch(row, vouched, self.settings, now(session))

    def _end(self, id: str, reason: str) -> None:
        with self.database.write() as session:
            _remove(session, id, reason)

    def _put_off(self, id: str, reason: str) -> None:
        """Asks again in a minute; ends the session where the provider's last word is too old to go by."""
        with self.database.write() as session:
            row, at = session.get(PersonSession, id), now(session)
            if row is None:
                return
            if sessions.counts_until(row, self.settings) <= at:
                _remove(session, id, reason)
                return
            row.check_at = at + _RETRY
        log.warning("the sign-in provider could not be asked about a person again", reason=reason)

    async def _answered(self, id: str) -> None:
        """Returns once the request that asks has its answer, or should have had it."""
        until = time.monotonic() + _ASKING.total_seconds()
        while time.monotonic() < until and await run_in_threadpool(self._being_asked, id):
            await asyncio.sleep(_LOOK_SECONDS)

    def _being_asked(self, id: str) -> bool:
        with self.database.read() as session:
            row = session.get(PersonSession, id)
            return row is not None and sessions.counts_until(row, self.settings) <= now(session)


def _remove(session: Session, id: str, reason: str) -> None:
    session.execute(delete(PersonSession).where(PersonSession.id == id))
    log.info("the sign-in provider does not vouch for a person any more: the session ended", reason=reason)
