"""The dashboard: counts by state and verdict, and the jobs that the filters in its address let through."""

from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from sqlalchemy import ColumnElement, func, literal, select
from sqlalchemy.orm import Session

from app.auth.caller import AsReader
from app.evidence.tables import Evidence
from app.http.dependencies import Config, Db
from app.jobs import views
from app.jobs.listing import Filters, filtered
from app.jobs.queue.fair_share import ProjectShares
from app.jobs.queue.states import Status
from app.jobs.queue.tables import Job
from app.models.aliases import aliased
from app.pages.render import render_page
from app.settings import Settings

router = APIRouter(include_in_schema=False)

PAGE = 25
#: Counting stops here, so that a project's millionth job makes its dashboard no slower.
MOST_STATES: Final = 10_000
MOST_VERDICTS: Final = 1_000
VERDICTS: Final = ("verified", "violated", "incomplete", "none")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The filters as the address has them; a text that is empty filters nothing."""

    status: Annotated[str, Query(max_length=32)] = ""
    verdict: Annotated[str, Query(max_length=32)] = ""
    model: Annotated[str, Query(max_length=256)] = ""
    tag: Annotated[str, Query(max_length=64)] = ""
    q: Annotated[str, Query(max_length=200)] = ""

    def __bool__(self) -> bool:
        return any(asdict(self).values())

    def address(self, **changes: Any) -> str:
        """The dashboard's address with these filters but for `changes`; what is empty is left out."""
        given = {name: value for name, value in (asdict(self) | changes).items() if value}
        return f"/?{urlencode(given)}" if given else "/"

    def words(self) -> str:
        """What the list is of, as a heading: `Failed`, `Succeeded, violated`, `Jobs` with a search."""
        verdict = "without evidence" if self.verdict == "none" else self.verdict
        words = ", ".join(filter(None, (self.status.replace("_", " "), verdict)))
        return words.capitalize() or ("Found" if self else "Newest first")

    def filters(self, settings: Settings) -> Filters:
        """As lists of jobs have them; a model may be named by an alias."""
        model = self.model.strip()
        return Filters(
            [self.status] if self.status else [],
            [self.verdict] if self.verdict else [],
            (aliased(settings, model) or model) if model else None,
            self.q.strip() or None,
            labels=[("", self.tag.strip())] if self.tag.strip() else [],
        )


@router.get("/")
def dashboard(
    request: Request,
    caller: AsReader,
    db: Db,
    settings: Config,
    chosen: Annotated[Chosen, Depends()],
    page: Annotated[int, Query(ge=1, le=10_000)] = 1,
) -> Response:
    """Counts by state, and the newest jobs."""
    statement, by = filtered(caller.project, chosen.filters(settings))
    newest = statement.order_by(*(column.desc() for column in by)).offset((page - 1) * PAGE).limit(PAGE + 1)
    with db.read() as session:
        rows = list(session.scalars(newest))
        jobs = views.job_objects(session, rows[:PAGE], ProjectShares.of(settings))
        counts = counted(session, caller.project)
    more = len(rows) > PAGE
    return render_page(request, "dashboard.html", jobs=jobs, counts=counts, chosen=chosen, page=page, more=more)


def counted(session: Session, project: str) -> dict[str, str]:
    """Jobs by state, and those that have ended by verdict, as text: `12`, or `10,000+` where counting stopped."""
    mine = Job.project == project
    counts = {status: _count(mine, Job.status == status, most=MOST_STATES) for status in get_args(Status)}
    for verdict in VERDICTS[:-1]:
        judged = select(literal(1)).join_from(Evidence, Job, Evidence.job_id == Job.id)
        judged = judged.where(Evidence.verdict == verdict, mine).limit(MOST_VERDICTS + 1)
        counts[verdict] = select(func.count()).select_from(judged.subquery()).scalar_subquery()
    # A job that has succeeded has evidence.
    unjudged = ~select(Evidence.job_id).where(Evidence.job_id == Job.id).exists()
    counts["none"] = _count(mine, Job.status.in_(("failed", "cancelled")), unjudged, most=MOST_VERDICTS)
    row = session.execute(select(*(count.label(name) for name, count in counts.items()))).one()
    limits = dict.fromkeys(VERDICTS, MOST_VERDICTS)
    return {name: _shown(value, limits.get(name, MOST_STATES)) for name, value in row._mapping.items()}


def _count(*conditions: ColumnElement[bool], most: int) -> Any:
    some = select(literal(1)).select_from(Job).where(*conditions).limit(most + 1).subquery()
    return select(func.count()).select_from(some).scalar_subquery()


def _shown(count: int, most: int) -> str:
    return f"{most:,}+" if count > most else f"{count:,}"
