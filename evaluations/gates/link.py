"""What the registry asks before an adapter becomes active, see `adapters.hooks.Gatekeeper`."""

from __future__ import annotations

from adapters.hooks import Objection
from adapters.models import LoraAdapter
from evaluations.models import Gate, GateVerdict
from evaluations.models.gates import PENDING

from . import standing


class GateLink:
    def objection(self, adapter_id: int, digest: str, base_key: str) -> Objection | None:
        """The first of its gates' objections. What no gate has judged yet is put before it."""
        adapter = LoraAdapter.objects.get(pk=adapter_id)
        found: Objection | None = None
        for gate in Gate.objects.concerning(adapter):
            stands = standing.of_content(gate, adapter, digest, base_key)
            if stands.code == standing.WAITING:
                standing.request(gate, adapter)
            if stands.code and found is None:
                found = Objection(stands.code, stands.details)
        return found

    def tried(self) -> set[str]:
        return {*GateVerdict.objects.filter(state__in=PENDING).exclude(digest="").values_list("digest", flat=True)}
