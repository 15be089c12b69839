"""`python -m benchmarks.bare_api DATABASE_URL PORT`: the least that reads a job's row over HTTP; a peer for polls.

FastAPI, SQLAlchemy and uvicorn as their introductions have it: no keys, no errors of its own, no joined rows.
"""

import sys
from typing import Any

import uvicorn
from fastapi import FastAPI
from sqlalchemy import create_engine
from sqlalchemy.orm import Session

from app.jobs.queue.tables import Job


def application(url: str) -> FastAPI:
    engine = create_engine(url)
    bare = FastAPI()

    @bare.get("/jobs/{job_id}")
    def read(job_id: str) -> dict[str, Any]:
        with Session(engine) as session:
            row = session.get_one(Job, job_id)
            return {column.key: getattr(row, column.key) for column in Job.__mapper__.column_attrs}

    return bare


if __name__ == "__main__":
    uvicorn.run(application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_config=None, access_log=False)
