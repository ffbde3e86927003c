"""Which experiments run, as the newest order says, and what they earned, as the examples say."""

from __future__ import annotations

from typing import NamedTuple, cast

from flink_jobs.settings import Settings
from schemas.codec import Codec
from schemas.records import Control
from schemas.refusal import Refused
from schemas.topics import CONTROL
from tailrace.connections import control_producer
from tailrace.errors import UserError
from tailrace.topic_scan import TopicReader
from udfs.experiments.experiment import Experiment
from udfs.experiments.running import RunningExperiments
from udfs.experiments.variant_sums import Label, VariantSums
from udfs.experiments.verdict import Verdict, look


class Standing(NamedTuple):
    """How an experiment stands: what each variant earned, and what is to be done."""

    experiment: Experiment
    sums: dict[str, VariantSums]
    verdict: Verdict


def read_running(settings: Settings) -> RunningExperiments:
    """Return what the newest order of its kind says runs.

    Raises
    ------
    UserError
        TR-300 or TR-342 where there is no broker or topic.
    """
    codec, found = Codec(settings.kafka.schema_ids), RunningExperiments()
    with TopicReader(settings, CONTROL.name) as reader:
        for record in reader.read_all():
            if record.key != b"*set_experiments" or record.value is None:
                continue
            try:
                control = cast(Control, codec.decode("Control", record.value))
                found = RunningExperiments.from_json(control.experiments or "")
            except (Refused, ValueError):
                continue  # the job refuses it too, and what ran before goes on
    return found


def order_running(settings: Settings, running: RunningExperiments, reason: str) -> None:
    """Let these experiments run from now on, and no others.

    Raises
    ------
    UserError
        TR-730 for experiments that the job would refuse, TR-300 without a broker.
    """
    try:
        running.check()
    except ValueError as error:
        raise UserError("TR-730", str(error), fix="tailrace ab start --help") from error
    with control_producer(settings) as producer:
        producer.set_experiments(running.to_json(), reason)


def standing(experiment: Experiment, sums: dict[Label, VariantSums]) -> Standing:
    """Judge one experiment."""
    own = {
        variant.name: sums.get((experiment.name, variant.name), VariantSums())
        for variant in experiment.variants
    }
    return Standing(experiment, own, look(experiment, own))
