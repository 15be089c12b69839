"""`permafrost mcp`: tools for agents over standard input and output, as the Model Context Protocol has them."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final

import httpx2
from pydantic import Field

from app.cli.files import upload
from app.cli.service import Server, connect, next_step, problem_lines
from app.jsontypes import JsonDict

#: Longer calls end in the client's own time-out.
LONGEST_WATCH: Final = 300
_ENDED: Final = ("succeeded", "failed", "cancelled")
_INSTRUCTIONS: Final = """
Fine-tuning jobs with a freeze policy, and signed evidence that frozen weights did not change. Explain a policy before
you submit a job with it, watch the job until it has ended, and read its evidence: only `verified` means that the
frozen weights are proved to be the base's. The service's /llms.txt leads to its guide.
"""

JobId = Annotated[str, Field(description="Id of a job, ftjob-…")]
ModelName = Annotated[
    str | JsonDict,
    Field(description='A model\'s id, or a spec such as {"type": "torch", "architecture": "affine", "kwargs": {…}}'),
]
Policy = Annotated[JsonDict, Field(description='For example {"freeze": ["bert.**"]} or {"train": ["classifier.**"]}')]
Task = Annotated[str | None, Field(description="Such as text-classification; default: from file or model")]


class Refused(Exception):
    """What the service, or the verifier, refuses, in words for the agent."""


class Tools:
    """The tools, as functions that may be called from any thread."""

    def __init__(self, client: httpx2.Client) -> None:
        self._client = client

    def all(self) -> list[Callable[..., JsonDict]]:
        """In the order in which a job meets them."""
        return [self.explain_policy, self.submit, self.watch, self.jobs, self.show, self.verify]

    def explain_policy(
        self,
        model: ModelName,
        freeze_policy: Policy,
        task: Task = None,
        after: Annotated[str | None, Field(description="Last name of the page before; a page has 100 tensors")] = None,
    ) -> JsonDict:
        """Show which tensors a freeze policy would freeze, by which rule, without training anything."""
        body: JsonDict = {"model": model, "freeze_policy": freeze_policy}
        body |= {name: value for name, value in (("task", task), ("after", after)) if value is not None}
        return self._ask("POST", "freeze_policies/preview", json=body)

    def submit(
        self,
        model: ModelName,
        training_file: Annotated[
            str, Field(description="Path of a JSONL, CSV or Parquet file, id file-…, or hf://…, s3://…, https://…")
        ],
        freeze_policy: Policy | None = None,
        task: Task = None,
        hyperparameters: Annotated[JsonDict | None, Field(description="Such as n_epochs, learning_rate")] = None,
        seed: int | None = None,
        dry_run: Annotated[bool, Field(description="Check everything, and start nothing")] = False,
    ) -> JsonDict:
        """Start a fine-tuning job; the answer has its id. A file that is a path is uploaded first."""
        body: JsonDict = {"model": model, "training_file": self._file(training_file)}
        options = {"freeze_policy": freeze_policy, "task": task, "hyperparameters": hyperparameters, "seed": seed}
        body |= {name: value for name, value in options.items() if value is not None}
        return self._ask("POST", "fine_tuning/jobs", json=body | ({"dry_run": True} if dry_run else {}))

    def watch(
        self,
        job: JobId,
        seconds: Annotated[int, Field(ge=0, le=LONGEST_WATCH, description="How long to wait at most")] = 60,
    ) -> JsonDict:
        """Wait until a job has ended, or the time is over; the answer is the job as it is then."""
        until = time.monotonic() + seconds
        found = self.show(job)
        etag = ""
        while found["status"] not in _ENDED and (left := until - time.monotonic()) >= 1:
            headers = {"prefer": f"wait={min(int(left), 20)}"} | ({"if-none-match": etag} if etag else {})
            answer = self._send("GET", f"fine_tuning/jobs/{job}", headers=headers)
            etag = answer.headers.get("etag", "")
            found = found if answer.status_code == 304 else answer.json()
        return found

    def jobs(
        self,
        status: Annotated[str | None, Field(description="Only jobs in this state, such as running")] = None,
        limit: Annotated[int, Field(ge=1, le=100)] = 20,
    ) -> JsonDict:
        """List jobs, the newest first."""
        query: dict[str, str | int] = {"limit": limit} | ({"status": status} if status else {})
        return self._ask("GET", "fine_tuning/jobs", params=query)

    def show(self, job: JobId) -> JsonDict:
        """Show a job: state, progress, error, the model that it made, and the verdict of its evidence."""
        return self._ask("GET", f"fine_tuning/jobs/{job}")

    def verify(
        self,
        attestation: Annotated[str, Field(description="Path of the signed statement")],
        key: Annotated[str, Field(description="Path of the trusted public keys")],
        result: Annotated[str, Field(description="Folder of the fine-tuned model")],
        base: Annotated[str | None, Field(description="Folder of the base model (level 3)")] = None,
        base_root: Annotated[str | None, Field(description="The base's published root (level 2)")] = None,
        policy: Annotated[JsonDict | None, Field(description="Reject a statement with another policy")] = None,
    ) -> JsonDict:
        """Check files of this machine against a signed statement, offline: verdict, level, and every problem."""
        import json

        from app.evidence.format.keys import KeyFileError
        from app.evidence.verifier.context import CannotCheck
        from app.evidence.verifier.verify import verify_files

        given = json.dumps(policy) if policy is not None else None
        try:
            report = verify_files(attestation, key=key, result=result, base=base, base_root=base_root, policy=given)
        except (CannotCheck, KeyFileError, OSError) as error:
            raise Refused(f"could not check: {error}") from None
        return dict(report.to_json())

    def _file(self, name: str) -> str:
        """The id of an uploaded file, which a path becomes; a reference stays one."""
        if "://" in name or (name.startswith("file-") and not Path(name).exists()):
            return name
        if not Path(name).is_file():
            message = f"training_file: there is no file {name} on this machine, and it is no id file-… or reference"
            raise Refused(message)
        try:
            return str(upload(self._client, Path(name), purpose="fine-tune")["id"])
        except SystemExit as refusal:
            raise Refused(str(refusal)) from None

    def _ask(self, method: str, path: str, **content: Any) -> JsonDict:
        answer: JsonDict = self._send(method, path, **content).json()
        return answer

    def _send(self, method: str, path: str, **content: Any) -> httpx2.Response:
        """The answer. Refused with the service's words, each problem, and what to do."""
        try:
            answer = self._client.request(method, path, **content)
        except httpx2.TransportError as error:
            raise Refused(f"the service at {self._client.base_url} does not answer: {error}") from None
        if answer.is_success or answer.status_code == 304:
            return answer
        try:
            problem = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            raise Refused(f"{answer.url} answered {answer.status_code} without an error of this service") from None
        lines = [f"{problem['message']} (code {problem['code']})", *problem_lines(problem), next_step(problem)]
        raise Refused("\n".join(line for line in lines if line))


def mcp(server: Server = "") -> None:
    """Serve tools for agents: explain_policy, submit, watch, jobs, show and verify, by the Model Context Protocol.

    An agent's program starts this command and speaks with it over standard input and output. PERMAFROST_API_KEY has
    the key where the service needs one.
    """
    try:
        from mcp.server import MCPServer
        from mcp.server.mcpserver.exceptions import ToolError
        from mcp.server.mcpserver.tools import Tool
    except ImportError:
        raise SystemExit("permafrost mcp needs the package mcp: pip install 'permafrost[mcp]'") from None

    from app import __version__

    with connect(server) as client:
        tools = [_strict(Tool.from_function(_with_errors(tool, ToolError))) for tool in Tools(client).all()]
        made = MCPServer(
            "permafrost", version=__version__, instructions=_INSTRUCTIONS.strip(), log_level="WARNING", tools=tools
        )
        made.run()


def _strict(tool: Any) -> Any:
    """The tool, which refuses an argument that it does not have: a `policy` that was meant as `freeze_policy`.

    The library would leave it out and call the tool without it.
    """
    given = tool.fn_metadata.arg_model
    tool.fn_metadata.arg_model = type(given.__name__, (given,), {}, extra="forbid")
    tool.parameters = tool.fn_metadata.arg_model.model_json_schema(by_alias=True)
    return tool


def _with_errors(tool: Callable[..., JsonDict], as_error: type[Exception]) -> Callable[..., JsonDict]:
    """The tool with its refusals as the protocol's own kind of error, which the agent reads."""
    from functools import wraps

    @wraps(tool)
    def call(**arguments: Any) -> JsonDict:
        try:
            return tool(**arguments)
        except Refused as refusal:
            raise as_error(str(refusal)) from None

    return call
