"""The model under training with all its names and its readings: what evidence is about."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from app.evidence.digest import TensorReading
from app.freeze.plan import FreezePlan, TensorInfo, resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import tensors
from worker.trainer.models import adapters, names
from worker.trainer.models.loading import Loaded
from worker.trainer.models.names import Stored
from worker.trainer.witness.observe import digest, observe

Rows = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Readings:
    """SHA-256 of raw bytes: of every live tensor, of the row ranges of split ones, of every tensor as it is stored."""

    whole: Mapping[str, str]
    rows: Mapping[str, Mapping[Rows, str]]
    stored: Mapping[str, str]


@dataclass(slots=True)
class Subject:
    """`pairs` takes a result name to its base name; it is known once the loaded bytes have been read."""

    loaded: Loaded
    inventory: list[TensorInfo]
    pairs: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, loaded: Loaded) -> Subject:
        return cls(loaded, tensors(loaded.model))

    @property
    def model(self) -> nn.Module:
        return self.loaded.model

    @property
    def base(self) -> Mapping[str, TensorReading]:
        return self.loaded.base

    def plan(self, policy: Policy) -> FreezePlan:
        """What the policy means for these tensors. An adapter's base is frozen, with a policy or without."""
        if not self.loaded.adapter:
            return resolve(policy, self.inventory)
        plan = resolve(adapters.implied_policy(policy, self.loaded.new), self.inventory)
        adapters.refuse_trained_base(plan, [each.live for each in self.stored() if not each.saved])
        return plan

    def stored(self) -> list[Stored]:
        return names.stored_form(self.model, self.inventory, base=self.base, new=self.loaded.new)

    def live(self) -> dict[str, Tensor]:
        """Every parameter and buffer by its own name; ties once."""
        found: dict[str, Any] = dict(self.model.named_parameters(remove_duplicate=False))
        found |= dict(self.model.named_buffers(remove_duplicate=False))
        return {each.name: found[each.name] for each in self.inventory}

    def read_loaded(self, plan: FreezePlan) -> Readings:
        """Read the model as it was loaded, and find the base tensor of every stored one."""
        readings = self.read(plan)
        prefix, new = names.prefix_of(self.model), self.loaded.new
        self.pairs = names.match(self.stored(), readings.stored, self.base, prefix=prefix, new=new)
        return readings

    def read(self, plan: FreezePlan) -> Readings:
        whole, live = observe(self.model), self.live()
        ranges = {each.name: (*each.frozen_rows, *each.trainable_rows) for each in plan.split}
        return Readings(
            whole=whole,
            rows={name: {(a, b): digest(live[name][a:b]) for a, b in spans} for name, spans in ranges.items()},
            stored={each.name: digest(each.tensor) if each.part else whole[each.live] for each in self.stored()},
        )
