"""Which layers of a file belong to a phase: include and exclude rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from converter.errors import GraphError, shown, some
from converter.read.schema import message_class
from converter.read.upgrade import LayerSpec, NetSpec


def kept_layers(spec: NetSpec, phase: str, stages: Sequence[str], level: int) -> list[LayerSpec]:
    """The layers whose include and exclude rules are met (Net::FilterNet and StateMeetsRule).

    Raises:
        GraphError: a layer has both include and exclude rules.
    """
    state = message_class("NetState")()
    state.CopyFrom(spec.state)
    state.phase = state.DESCRIPTOR.fields_by_name["phase"].enum_type.values_by_name[phase].number
    state.level = level or state.level
    state.stage.extend(stages)
    stages_on, kept = set(state.stage), []
    for layer in spec.layers:
        include, exclude = layer.message.include, layer.message.exclude
        if include and exclude:
            raise GraphError(f"{spec.where}: {layer} has both include and exclude rules; Caffe takes one kind.")
        if any(_meets(state, stages_on, r) for r in include) if include else not any(_meets(state, stages_on, r) for r in exclude):
            kept.append(layer)
    return kept


def _meets(state: Any, stages: set[str], rule: Any) -> bool:
    return (
        (not rule.HasField("phase") or rule.phase == state.phase)
        and (not rule.HasField("min_level") or state.level >= rule.min_level)
        and (not rule.HasField("max_level") or state.level <= rule.max_level)
        and stages.issuperset(rule.stage)
        and stages.isdisjoint(rule.not_stage)
    )


def unmet_stages(spec: NetSpec, stages: Sequence[str]) -> list[str]:
    """A note on stages that were asked for and that no layer's rule names: a misspelt one changes nothing, and nobody notices."""
    rules = [rule for layer in spec.layers for rule in (*layer.message.include, *layer.message.exclude)]
    known = list(dict.fromkeys(stage for rule in rules for stage in (*rule.stage, *rule.not_stage)))
    unmet = [stage for stage in dict.fromkeys(stages) if stage not in set(known)]
    said = f"those are {some(known)}" if known else "none names any"
    return [f"no layer's rules name the stage {', '.join(map(shown, unmet))}; {said}"] if unmet else []
