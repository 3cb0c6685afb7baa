"""Every measure a rule can name. Must never hold one that two names lead to."""

from collections.abc import Mapping
from types import MappingProxyType

from schedules import measures_backlog, measures_routes, measures_sends, measures_upkeep
from schedules.readings import Measure

MEASURES: Mapping[str, Measure] = MappingProxyType(
    {
        measure.name: measure
        for part in (measures_sends, measures_backlog, measures_routes, measures_upkeep)
        for measure in part.MEASURES
    }
)
