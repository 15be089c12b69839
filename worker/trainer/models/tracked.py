"""The model under training, with the readings and name pairs that evidence is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from app.errors import ModelError, PolicyError
from app.evidence.format.digest import TensorReading
from app.freeze.implied import implied_policy
from app.freeze.plan import FreezePlan, TensorInfo, resolve
from app.freeze.policy import Policy
from worker.trainer.freeze.inventory import dtype_code, tensors
from worker.trainer.freeze.quantised_parts import digest_of, made_weight
from worker.trainer.freeze.tensor_refs import TensorRef, tensor_refs
from worker.trainer.models import adapters, names, pretrained, vocabulary
from worker.trainer.models.loading import Loaded
from worker.trainer.models.names import StoredTensor
from worker.trainer.witness.observe import digest, observe

RowRange = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Readings:
    """SHA-256 of every live tensor, of row ranges of split ones, and of every tensor in its stored form."""

    whole: Mapping[str, str]
    rows: Mapping[str, Mapping[RowRange, str]]
    stored: Mapping[str, str]


@dataclass(slots=True)
class TrackedModel:
    """A loaded model with its inventory. `pairs` maps result names to base names, once the loaded bytes are read."""

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
        """Resolves the policy over this model. The base of an adapter is frozen, with or without a policy."""
        stored = self.stored()
        self._refuse_remade(stored)
        if not self.loaded.adapter:
            plan = resolve(policy, self.inventory)
            vocabulary.refuse_frozen_rows(plan, self.grown)
            self._refuse_rows_in_pieces(plan, stored)
            return plan
        new = [each.name for each in self.inventory if each.kind == "parameter" and each.name in self.loaded.new]
        if self.loaded.adapter.merge:  # the policy is about the merged model; what trains is the adapter
            policy = Policy.from_json({**policy.to_json(), "default": "train", "rules": []})
        plan = resolve(implied_policy(policy, new), self.inventory)
        adapters.refuse_trained_base(plan, [each.live for each in stored if not each.saved])
        return plan

    @property
    def grown(self) -> dict[str, int]:
        """Own names of tensors with more rows than in the base, with the number of rows in the base."""
        rows = self.loaded.grown
        names = {each.name: next((n for n in (each.name, *each.aliases) if n in rows), None) for each in self.inventory}
        return {own: rows[name] for own, name in names.items() if name is not None}

    def stored(self) -> list[StoredTensor]:
        return names.stored_form(self.model, self.inventory, base=self.base, new=self.loaded.new)

    def live(self) -> dict[str, Tensor]:
        """Every parameter and buffer by its own name; tied ones once."""
        found: dict[str, Any] = {ref.name: ref.tensor for ref in tensor_refs(self.model)}
        return {each.name: found[each.name] for each in self.inventory}

    @property
    def made(self) -> dict[str, list[TensorRef]]:
        """Live names of weights that loading made of stored ones, with the tensors that each consists of.

        A weight that was quantised consists of codes and scales; one that was decoded is a single tensor.
        """
        parts: dict[tuple[int, str], list[TensorRef]] = {}
        for ref in tensor_refs(self.model):
            weight = made_weight(ref.module, ref.leaf)
            if weight is not None:
                parts.setdefault((id(ref.module), weight), []).append(ref)
        return {ref.name: group for (_, weight), group in parts.items() for ref in group if ref.leaf == weight}

    def digests_of_made(self) -> dict[str, str]:
        """Digests of the weights that loading made of stored ones, by the names of these in the base's files."""
        prefix, made, seen = names.prefix_of(self.model), self.made, observe(self.model)
        digests: dict[str, str] = {}
        for each in self.stored():
            name = names.name_in_base(each.name, prefix, self.base) if each.live in made else None
            if name is not None:
                whole = {ref.leaf: seen[ref.name] for ref in made[each.live]}
                digests[name] = digest(each.tensor) if each.part else digest_of(whole)
        return digests

    def read_loaded(self, plan: FreezePlan) -> Readings:
        """Reads the model as loaded, and finds the base tensor of every stored one.

        Raises PolicyError for a frozen tensor that loading has changed: it is not what the base holds.
        """
        stored = self.stored()
        readings = self._read(plan, stored)
        prefix, new = names.prefix_of(self.model), self.loaded.new
        old = {name: readings.rows[name][(0, rows)] for name, rows in self.grown.items()}
        self.pairs = names.match(stored, readings.stored, self.base, prefix=prefix, new=new, grown=old, made=self.made)
        if plan.policy.enforce:
            self._refuse_casts(plan, stored)
            self._refuse_changed(plan, readings, stored)
        return readings

    def _refuse_remade(self, stored: Sequence[StoredTensor]) -> None:
        """Raises ModelError for tensors that loading rearranges in a way that evidence cannot follow."""
        remade = sorted(each.name for each in stored if not each.live)
        if remade:
            kind = getattr(getattr(self.model, "config", None), "model_type", type(self.model).__name__)
            raise ModelError(
                f"transformers takes {remade[0]!r} of this {kind} model apart while loading it ({len(remade)} tensors "
                "in all), so that no tensor of the model is one of the files', and evidence cannot follow it; models "
                "of this kind are not supported",
                param="model",
                code="unsupported_model",
            )

    def _refuse_rows_in_pieces(self, plan: FreezePlan, stored: Sequence[StoredTensor]) -> None:
        """Raises PolicyError for partly frozen tensors that the files hold in pieces, such as fused experts.

        A row of the whole is not a row of a piece, and a piece has no intervals of its own.
        """
        rows = {each.name for each in plan.split}
        partly = rows | {each.name for each in plan.decisions if each.scheduled}
        for each in stored:
            if each.part and each.live in partly:
                what = "rows of " if each.live in rows else "for some steps "
                raise PolicyError(
                    f"the policy freezes {what}{each.live!r}, which the model's files hold in pieces, one of them "
                    f"{each.name!r}; freeze it whole and for the whole run, or train it",
                    param="freeze_policy",
                )

    def _refuse_casts(self, plan: FreezePlan, stored: Sequence[StoredTensor]) -> None:
        frozen = {each.name for each in plan.decisions if each.intervals} - set(self.made)
        for each in stored:
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

    def left_out(self) -> list[str]:
        """Tensors of the base's files that the model has no place for, copies of those that it has left aside.

        transformers reports some of them as unexpected, and is silent about others, such as a vision tower.
        """
        used = set(self.pairs.values())
        held = {self.base[name].sha256 for name in used}
        return sorted(name for name, each in self.base.items() if name not in used and each.sha256 not in held)

    def _refuse_changed(self, plan: FreezePlan, readings: Readings, stored: Sequence[StoredTensor]) -> None:
        """Raises PolicyError for a frozen tensor whose bytes are not the base's before training has begun."""
        frozen = {each.name for each in plan.decisions if each.intervals and not each.scheduled} - set(self.grown)
        frozen -= set(self.made)
        for each in stored:
            base = self.base.get(self.pairs.get(each.name, ""))
            if each.live not in frozen or base is None or base.sha256 == readings.stored[each.name]:
                continue
            cause = "loading it" + (" or setting up the adapter" if self.loaded.adapter else "")
            raise PolicyError(
                f"the policy freezes '{each.live}', and {cause} changes its bytes: in the model they are not those of "
                f"{base.name!r} in the base's files (some models zero the row of the padding token, for one); train "
                "this tensor, or save the base again as transformers loads it",
                param="freeze_policy",
            )

    def read(self, plan: FreezePlan) -> Readings:
        """Digests of the live tensors, of the rows that the plan tells apart, and of what the result would hold."""
        return self._read(plan, self.stored())

    def _read(self, plan: FreezePlan, stored: Sequence[StoredTensor]) -> Readings:
        whole, live = observe(self.model), self.live()
        whole |= {codes: digest_of({ref.leaf: whole[ref.name] for ref in parts}) for codes, parts in self.made.items()}
        ranges = {each.name: [*each.frozen_rows, *each.trainable_rows] for each in plan.split}
        for name, rows in self.grown.items():
            ranges.setdefault(name, []).extend([(0, rows), (rows, live[name].shape[0])])
        return Readings(
            whole=whole,
            rows={name: {(a, b): digest(live[name][a:b]) for a, b in spans} for name, spans in ranges.items()},
            stored={each.name: digest(each.tensor) if each.part else whole[each.live] for each in stored},
        )


def _uncast(stored: set[str], wanted: str) -> str:
    if len(stored & set(pretrained.DTYPES)) > 1:
        return f"The base has several float dtypes and is loaded in one: store all as {wanted}, or train this tensor"
    return 'Leave dtype at "auto", which keeps the stored one, or train this tensor'
