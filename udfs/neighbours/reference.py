"""The session index in plain Python: slow, written to be read; tests compare the kernels with it.

It takes the same limits and settings. The pool of rings has no counterpart here: give the kernels one that is large
enough when you compare.
"""

from collections import OrderedDict, defaultdict, deque
from collections.abc import Sequence
from math import exp, log, log1p

from udfs.neighbours.index_arrays import SESSION_CAP, IndexLimits
from udfs.neighbours.scan_arrays import (
    BACKWARD,
    COSINE,
    FIRST,
    FORWARD,
    HOP,
    N_SUMS,
    NEXT,
    PAIR,
    SECOND,
    ScanSettings,
)


class Session:
    """One session: its clicks, at most `SESSION_CAP`, and the number of its latest one among all clicks."""

    def __init__(self) -> None:
        self.items: deque[int] = deque(maxlen=SESSION_CAP)
        self.click = 0

    def last_place(self, item: int) -> int:
        """Return where an item was clicked last, 0 if it is gone."""
        places = [at for at, other in enumerate(self.items) if other == item]
        return places[-1] if places else 0


class ReferenceIndex:
    """What `SessionIndex` does, written to be read."""

    def __init__(self, limits: IndexLimits, settings: ScanSettings, horizon_clicks: float) -> None:
        self._limits, self._settings, self._horizon = limits, settings, horizon_clicks
        self._sessions: OrderedDict[int, Session] = OrderedDict()
        self._rings: dict[int, deque[Session]] = defaultdict(lambda: deque(maxlen=limits.sessions_per_item))
        self._pushed: dict[int, int] = defaultdict(int)
        self._popular: dict[int, tuple[float, int]] = {}
        self._opened = 0
        self._clicks = 0

    def observe(self, key: int, item: int, weight: float = 1.0) -> None:
        """Learn one click."""
        session = self._sessions.get(key)
        if session is None:
            if len(self._sessions) == self._limits.sessions:
                self._sessions.popitem(last=False)
            session = self._sessions[key] = Session()
            self._opened += 1
        session.click = self._clicks
        if item not in session.items:
            self._rings[item].append(session)
            self._pushed[item] += 1
        session.items.append(item)
        count, since = self._popular.get(item, (0.0, self._clicks))
        self._popular[item] = (count * exp((since - self._clicks) / self._horizon) + weight, self._clicks)
        self._clicks += 1

    def query(self, clicked: Sequence[int], key: int = -1, limit: int = 100) -> list[tuple[int, list[float]]]:
        """Return candidates, best first, each with its scores in the order of `SUMS`."""
        query = list(dict.fromkeys(reversed(clicked)))[: self._settings.query_items]
        if not query:
            return []
        own = self._sessions.get(key)
        sums: dict[int, list[float]] = defaultdict(lambda: [0.0] * N_SUMS)
        self._sum_neighbours(query, own, sums)
        if self._settings.hop_items:
            self._second_hop(own, sums)
        return self._choose(clicked, sums, limit)

    def _alive(self, item: int, most: int) -> list[Session]:
        """Return an item's latest sessions that are kept, newest first."""
        kept = {id(session) for session in self._sessions.values()}
        return [session for session in list(self._rings[item])[::-1][:most] if id(session) in kept]

    def _gap_weight(self, gap: int) -> float:
        return exp(-abs(gap) / self._settings.gap_clicks)

    def _vmis(self, scores: list[float]) -> float:
        return scores[FORWARD] + self._settings.backward * scores[BACKWARD]

    def _sum_neighbours(self, query: list[int], own: Session | None, sums: dict[int, list[float]]) -> None:
        settings = self._settings
        similarity: dict[int, float] = defaultdict(float)
        match: dict[int, list[int]] = defaultdict(list)
        by_id: dict[int, Session] = {}
        for d, item in enumerate(query):
            for session in self._alive(item, self._limits.sessions_per_item):
                if session is own or d in match[id(session)]:  # a long session may have come back to an item
                    continue
                by_id[id(session)] = session
                match[id(session)].append(d)
                similarity[id(session)] += settings.query_decay**d
        for name, session in by_id.items():
            age = (self._clicks - session.click) / settings.half_age_clicks
            similarity[name] *= exp(-age) / len(session.items) ** settings.length_power
        best = sorted(by_id, key=lambda name: -similarity[name])[: settings.neighbours]
        for name in best:
            session, d = by_id[name], match[name][0]
            base = similarity[name] * max(1.0 - settings.match_decay * d, 0.0)
            at = session.last_place(query[d])
            for p, item in enumerate(session.items):
                gap, scores = p - at, sums[item]
                near = self._gap_weight(gap)
                scores[FORWARD if gap > 0 else BACKWARD] += base * near
                scores[NEXT] += base if gap == 1 else 0.0
                scores[COSINE] += base
                scores[PAIR] += near if 0 in match[name] else 0.0
                scores[SECOND] += near if 1 in match[name] else 0.0

    def _second_hop(self, own: Session | None, sums: dict[int, list[float]]) -> None:
        settings = self._settings
        middles = sorted(sums, key=lambda item: -self._vmis(sums[item]))[: settings.hop_items]
        strength = {middle: self._vmis(sums[middle]) for middle in middles}
        for middle, base in strength.items():
            for session in self._alive(middle, settings.hop_sessions):
                if session is own:
                    continue
                at, share = session.last_place(middle), base / len(session.items) ** settings.length_power
                for p, item in enumerate(session.items):
                    if item != middle:
                        sums[item][HOP] += share * self._gap_weight(p - at)

    def _choose(
        self, clicked: Sequence[int], sums: dict[int, list[float]], limit: int
    ) -> list[tuple[int, list[float]]]:
        settings = self._settings
        for step, item in enumerate(dict.fromkeys(reversed(clicked[-SESSION_CAP:]))):
            sums[item][FIRST] = settings.repeat_share * settings.repeat_decay**step
        for item, scores in sums.items():
            rarity = 1.0 + log(max(self._opened, 1) / max(self._pushed[item], 1))
            scores[FORWARD:] = [score * rarity for score in scores[FORWARD:]]
        most_vmis = max(map(self._vmis, sums.values()))
        most_hop = max(scores[HOP] for scores in sums.values())
        for item, scores in sums.items():
            scores[FIRST] += self._vmis(scores) / most_vmis if most_vmis else 0.0
            scores[FIRST] += settings.hop_share * scores[HOP] / most_hop if most_hop else 0.0
            scores[FIRST] *= 1.0 + settings.popular_share * log1p(self._popular.get(item, (0.0, 0))[0])
        ranked = sorted(sums.items(), key=lambda found: (-found[1][FIRST], found[0]))
        return ranked[:limit]
