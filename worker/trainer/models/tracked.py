"""The model under training with all its names and its readings: what evidence is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from app.errors import ModelError, PolicyError
from app.evidence.format.digest import TensorReading
from app.freeze.implied import implied_policy
from app.freeze.plan import FreezePlan, TensorInfo, resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import dtype_code, tensors
from worker.trainer.models import adapters, names, pretrained, vocabulary
from worker.trainer.models.loading import Loaded
from worker.trainer.models.names import StoredTensor
from worker.trainer.witness.observe import digest, observe

RowRange = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Readings:
    """SHA-256 of raw bytes: of every live tensor, of the row ranges of split ones, of every tensor as it is stored."""

    whole: Mapping[str, str]
    rows: Mapping[str, Mapping[RowRange, str]]
    stored: Mapping[str, str]


@dataclass(slots=True)
class TrackedModel:
    """`pairs` takes a result name to its base name; it is known once the loaded bytes have been read."""

    loaded: Loaded
    inventory: list[TensorInfo]
    pairs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: Loaded) -> TrackedModel:
        return cls(loaded, tensors(loaded.model))

    @property
    def model(self) -> nn.Module:
        return self.loaded.model

    @property
    def base(self) -> Mapping[str, TensorReading]:
        return self.loaded.base

    def plan(self, policy: Policy) -> FreezePlan:
        """What the policy means for these tensors. An adapter's base is frozen, with a policy or without."""
        self._refuse_remade()
        if not self.loaded.adapter:
            plan = resolve(policy, self.inventory)
            vocabulary.refuse_frozen_rows(plan, self.grown)
            self._refuse_rows_in_pieces(plan)
            return plan
        new = [each.name for each in self.inventory if each.kind == "parameter" and each.name in self.loaded.new]
        if self.loaded.adapter.merge:  # the policy is about the merged model; what trains is the adapter
            policy = Policy.from_json({**policy.to_json(), "default": "train", "rules": []})
        plan = resolve(implied_policy(policy, new), self.inventory)
        adapters.refuse_trained_base(plan, [each.live for each in self.stored() if not each.saved])
        return plan

    @property
    def grown(self) -> dict[str, int]:
        """Tensors that have more rows than the base's, by their own names, with the rows that the base has."""
        rows = self.loaded.grown
        names = {each.name: next((n for n in (each.name, *each.aliases) if n in rows), None) for each in self.inventory}
        return {own: rows[name] for own, name in names.items() if name is not None}

    def stored(self) -> list[StoredTensor]:
        return names.stored_form(self.model, self.inventory, base=self.base, new=self.loaded.new)

    def live(self) -> dict[str, Tensor]:
        """Every parameter and buffer by its own name; ties once."""
        found: dict[str, Any] = dict(self.model.named_parameters(remove_duplicate=False))
        found |= dict(self.model.named_buffers(remove_duplicate=False))
        return {each.name: found[each.name] for each in self.inventory}

    def read_loaded(self, plan: FreezePlan) -> Readings:
        """Read the model as it was loaded, and find the base tensor of every stored one.

        PolicyError for a frozen tensor that loading has cast: it is no longer what the base holds.
        """
        readings = self.read(plan)
        prefix, new = names.prefix_of(self.model), self.loaded.new
        old = {name: readings.rows[name][(0, rows)] for name, rows in self.grown.items()}
        self.pairs = names.match(self.stored(), readings.stored, self.base, prefix=prefix, new=new, grown=old)
        if plan.policy.enforce:
            self._refuse_casts(plan)
        return readings

    def _refuse_remade(self) -> None:
        """Bytes that are in the model in another order than in the file cannot be followed from one to the other."""
        remade = sorted(each.name for each in self.stored() if not each.live)
        if remade:
            kind = getattr(getattr(self.model, "config", None), "model_type", type(self.model).__name__)
            raise ModelError(
                f"transformers takes {remade[0]!r} of this {kind} model apart while loading it ({len(remade)} tensors "
                "in all), so that no tensor of the model is one of the files', and evidence cannot follow it; models "
                "of this kind are not supported",
                param="model",
                code="unsupported_model",
            )

    def _refuse_rows_in_pieces(self, plan: FreezePlan) -> None:
        """A row of a tensor that the files hold in pieces, such as fused experts, is a row of none of them.

        Nor has a piece intervals of its own: what is read in between is the whole.
        """
        rows = {each.name for each in plan.split}
        partly = rows | {each.name for each in plan.decisions if each.scheduled}
        for each in self.stored():
            if each.part and each.live in partly:
                what = "rows of " if each.live in rows else "for some steps "
                raise PolicyError(
                    f"the policy freezes {what}{each.live!r}, which the model's files hold in pieces, one of them "
                    f"{each.name!r}; freeze it whole and for the whole run, or train it",
                    param="freeze_policy",
                )

    def _refuse_casts(self, plan: FreezePlan) -> None:
        frozen = {each.name: each for each in plan.decisions if each.intervals}
        for each in self.stored():
            base = self.base.get(self.pairs.get(each.name, ""))
            if each.live not in frozen or base is None:
                continue
            code = dtype_code(each.tensor, each.name)
            if code != base.dtype:
                raise PolicyError(
                    f"the policy freezes '{each.live}', and loading casts it from {base.dtype} to {code}: its bytes "
                    f"cannot be the base's. {_uncast({one.dtype for one in self.base.values()}, base.dtype)}",
                    param="model.dtype",
                )

    def read(self, plan: FreezePlan) -> Readings:
        whole, live = observe(self.model), self.live()
        ranges = {each.name: [*each.frozen_rows, *each.trainable_rows] for each in plan.split}
        for name, rows in self.grown.items():
            ranges.setdefault(name, []).extend([(0, rows), (rows, live[name].shape[0])])
        return Readings(
            whole=whole,
            rows={name: {(a, b): digest(live[name][a:b]) for a, b in spans} for name, spans in ranges.items()},
            stored={each.name: digest(each.tensor) if each.part else whole[each.live] for each in self.stored()},
        )


def _uncast(stored: set[str], wanted: str) -> str:
    if len(stored & set(pretrained.DTYPES)) > 1:
        return f"The base has several float dtypes and is loaded in one: store all as {wanted}, or train this tensor"
    return 'Leave dtype at "auto", which keeps the stored one, or train this tensor'
