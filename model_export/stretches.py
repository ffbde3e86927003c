"""The three times of a training, T1, T2 and the cut: what is learnt, and what is measured on."""

from __future__ import annotations

from model_export.interactions import DAY_MS
from model_export.sources.event_log import EventLog
from model_export.train_settings import TrainSettings


class TrainingError(ValueError):
    """Data that no model can be trained on; the text says what is missing and what to do."""


def stretch_edges(settings: TrainSettings, log: EventLog, cut_ms: int) -> list[int]:
    """Return T1, T2 and the cut; stretches are counted back from the last event before the cut.

    Raises
    ------
    TrainingError
        Where no event lies before the cut.
    """
    known = log.position(cut_ms)
    if not known:
        raise TrainingError(f"the data hold no event before the cut; they have {len(log)} events in all")
    end_ms = int(log.times_ms[known - 1]) + 1
    span_ms = end_ms - int(log.times_ms[0])
    stretch_ms = max(int(min(settings.stretch_days * DAY_MS, settings.stretch_share * span_ms)), 1)
    return [end_ms - 2 * stretch_ms, end_ms - stretch_ms, cut_ms]
