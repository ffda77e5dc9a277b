"""The sets of labels of a sweep: one for each label policy, made once, found again by their content."""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

from segdist.checking.dataset_text import dataset_line
from segdist.commands.plan import teacher_risk
from segdist.core import storage
from segdist.core.errors import DataError
from segdist.core.spec import SweepSpec
from segdist.datasets.shards import MANIFEST, Dataset
from segdist.pipeline.cluster import connected
from segdist.pipeline.ingest import ingest
from segdist.pipeline.label import label, label_root
from segdist.pipeline.travelling import taken_along
from segdist.sweepfile.label_policies import Policy, policies
from segdist.sweepfile.loading import load


@dataclass(frozen=True)
class LabelSet:
    """One policy and the labels it made."""

    policy: Policy
    labels: Dataset


def make_label_sets(
    spec: SweepSpec, dataset: Dataset, on_progress: Callable[[str], None], *, limit: int = 0
) -> list[LabelSet]:
    """The labels of each policy, made where they are not there yet.

    Raises:
        SpecError: the sweep names no teacher, or one that does not understand the prompts.
    """
    found = []
    for policy in policies(spec):
        say = _named(on_progress, policy)
        if risk := teacher_risk(policy.spec):
            say(f"warning   {risk}")
        found.append(LabelSet(policy, label(policy.spec, dataset, say, limit=limit)))
    return found


def label_sweep(
    file: str, overrides: Sequence[str], on_progress: Callable[[str], None], *, limit: int = 0
) -> list[LabelSet]:
    """Ingest and label what a sweep file names, and stop there.

    Args:
        file: the sweep file.
        overrides: `key=value`.
        on_progress: takes a line now and then.
        limit: label only the first images; 0 for all.

    Raises:
        SegdistError: something a user can fix, named with its fix.
    """
    spec = load(file, overrides)
    storage.check_writable(spec.storage)
    with taken_along(spec.resources.environment):
        dataset = ingest(spec)
        on_progress(dataset_line(dataset))
        is_done = all(_is_made(policy, dataset, limit) for policy in policies(spec))
        with nullcontext() if is_done else connected():  # one cluster for all policies, none where all is done
            return make_label_sets(spec, dataset, on_progress, limit=limit)


def find_label_sets(file: str, overrides: Sequence[str], *, limit: int = 0) -> tuple[Dataset, list[LabelSet]]:
    """The data set of a sweep and its labels, which must be there; nothing is labelled.

    Raises:
        DataError: some are not there.
    """
    spec = load(file, overrides)
    dataset = ingest(spec)
    found = []
    for policy in policies(spec):
        if not _is_made(policy, dataset, limit):
            part = f" --limit {limit}" if limit else ""
            raise DataError(f"The labels ({policy.title}) are not made yet. Run: segdist label {file}{part}")
        found.append(LabelSet(policy, label(policy.spec, dataset, limit=limit)))
    return dataset, found


def _is_made(policy: Policy, dataset: Dataset, limit: int) -> bool:
    return storage.exists(storage.join(label_root(policy.spec, dataset, limit), MANIFEST))


def _named(on_progress: Callable[[str], None], policy: Policy) -> Callable[[str], None]:
    """Progress lines that say which policy they are about, where there are several."""
    return (lambda text: on_progress(f"{text}  {policy.title}")) if policy.values else on_progress
