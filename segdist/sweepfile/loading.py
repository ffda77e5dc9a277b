"""A sweep file, composed and checked: everything that can be wrong is named with file, line and key before a start.

Composition is Hydra's (`defaults` lists, config groups, `key=value` overrides), within the bounds that `composition`
sets; validation is pydantic's, by `spec` and by the options of the plug-ins the file names.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, ValidationError

from segdist import metrics
from segdist.augment import Recipes
from segdist.core import extras, registry, renamed_keys, storage
from segdist.core.bounded_yaml import compose_yaml, yaml_bytes
from segdist.core.errors import SegdistError, SpecError, did_you_mean
from segdist.core.json_values import JsonDict
from segdist.core.plugins import declaration, prompt_strategy
from segdist.core.spec import ModelSpec, PhaseSpec, Range, RunSpec, SweepSpec, TrainSpec
from segdist.sweepfile import grid, label_policies, students, train_checks
from segdist.sweepfile.composition import NotAllowedError, compose, opened
from segdist.sweepfile.objectives import COSTS
from segdist.sweepfile.train_checks import Keys

_TRACKING = ("sqlite:///", "http://", "https://", "databricks", "postgresql", "mysql", "mssql")
"""How addresses of MLflow begin; of other schemes it would import whatever package answers to them."""
_NAMED_FIRST = re.compile(r"`([a-z_.]+)(?:\[(\d+)\])?(?:: [^`]*)?`")
"""The key that a rule about several keys begins with, which is where people are shown the line."""


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a sweep file: the path of keys to it, and the rule it breaks."""

    keys: Keys
    message: str


def load(path: str | Path, overrides: Sequence[str] = ()) -> SweepSpec:
    """The checked content of a sweep file.

    Args:
        path: a YAML file; config groups are folders beside it.
        overrides: `key=value` in Hydra's grammar, e.g. `search.trials=3`.

    Raises:
        SpecError: one line for each problem, with file, line, key and the nearest right one.
    """
    path = Path(path)
    renamed: list[Problem] = []
    try:
        content = _with_recipe(
            compose(path, overrides, old_name=lambda keys, said: renamed.append(Problem(keys, said)))
        )
    except NotAllowedError as error:
        raise _report(path, overrides, [Problem(tuple(map(str, error.keys)), error.rule)]) from None
    lines = _key_lines(path) if renamed else {}
    for problem in renamed:
        renamed_keys.warn(_place(path, lines, (), problem.keys), problem.message)
    try:
        spec = SweepSpec.model_validate(content)
    except ValidationError as error:
        raise _report(path, overrides, problems_of(error, SweepSpec)) from None
    if problems := list(_plugin_problems(spec)):
        raise _report(path, overrides, problems)
    return spec


def schema() -> JsonDict:
    """The JSON schema of a sweep file, with the options of every plug-in: for completion in editors."""
    whole = SweepSpec.model_json_schema(ref_template="#/$defs/{model}")
    definitions = whole["$defs"]
    families = registry.names("models")
    for family in families:
        options = declaration(family).options.model_json_schema()
        definitions.update(options.pop("$defs", {}))
        for holder in ("ModelSpec", "TeacherSpec"):
            definitions[holder]["properties"][family] = options
    for holder in ("ModelSpec", "TeacherSpec"):
        definitions[holder]["additionalProperties"] = False
        definitions[holder]["properties"]["family"]["enum"] = families
    for kind, holder, key in (("formats", "SourceSpec", "format"), ("prompts", "PromptSpec", "strategy")):
        definitions[holder] = _union_schema(kind, key, definitions[holder])  # type: ignore[arg-type]
    return whole


def candidates(spec: SweepSpec) -> list[str]:
    """The model families that a sweep may train: the one it names, or those it searches."""
    searched = spec.space.get("model.family")
    return [str(f) for f in searched.choices] if searched else [spec.model.family]


def trials_of(spec: SweepSpec) -> int:
    """How many trials a sweep runs: one where nothing is searched."""
    return spec.search.trials if spec.space else 1


def epochs_of(spec: SweepSpec) -> int:
    """The epochs of the longest trial."""
    searched = spec.space.get("train.epochs")
    if searched is None:
        return spec.train.total_epochs
    return int(max(searched.choices) if searched.choices else searched.high or 0)


def problems_of(error: ValidationError, model: type[BaseModel], under: Keys = ()) -> Iterator[Problem]:
    """What pydantic found, in our words."""
    for detail in error.errors():
        keys = tuple(str(k) for k in detail["loc"])
        if detail["type"] == "extra_forbidden":
            message = f"unknown key `{keys[-1]}`. {did_you_mean(keys[-1], _known_keys(model, keys[:-1]))}"
        elif detail["type"] == "missing":
            message = f"`{keys[-1]}` is missing"
        else:
            message = detail["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list")
            if isinstance(detail["input"], Mapping | BaseModel) and (named := _NAMED_FIRST.match(message)):
                keys += (*named[1].split("."), *filter(None, (named[2],)))
            if not isinstance(detail["input"], Mapping | BaseModel) and "but got" not in message:
                message += f", but got {detail['input']!r}"
        yield Problem(under + keys, message)


def _with_recipe(content: dict[str, object]) -> dict[str, object]:
    """The content with what the family that it names begins with, where the file says nothing else."""
    model = content.get("model")
    family = model.get("family") if isinstance(model, dict) else None
    if family not in registry.names("models"):
        return content
    for key, value in renamed_keys.current_values(declaration(family).recipe).items():
        *parents, leaf = key.split(".")
        node: Any = content
        for name in parents:
            node = node.setdefault(name, {}) if isinstance(node, dict) else None
        replaced = leaf in PhaseSpec.model_fields and isinstance(node, dict) and node.get("phases")
        if isinstance(node, dict) and not replaced:
            node.setdefault(leaf, value)
    return content


def _plugin_problems(spec: SweepSpec) -> Iterator[Problem]:
    yield from _place_problems(spec)
    yield from _source_problems(spec)
    yield from _refine_problems(spec)
    families = [*_family_problems(spec.model, candidates(spec), ("model",)), *_untrainable(spec)]
    yield from families
    if spec.label:
        yield from _label_problems(spec)
    yield from _policy_problems(spec)
    if families:
        return  # what follows needs the families' declarations
    yield from _augment_problems(spec)
    for where, message in train_checks.problems(spec, {name: declaration(name) for name in candidates(spec)}):
        yield Problem(where, message)
    yield from _space_problems(spec)
    yield from _prompt_problems(spec)
    yield from _metric_problems(spec)


def _place_problems(spec: SweepSpec) -> Iterator[Problem]:
    if not (storage.is_local(spec.storage) or spec.storage.startswith("s3://")):
        yield Problem(("storage",), f"`storage` must be a folder or begin with s3://, but got {spec.storage}")
    elif not storage.is_local(spec.storage):
        try:
            registry.check_extra(f"`storage: {spec.storage}`", "s3")
        except SpecError as error:
            yield Problem(("storage",), str(error))
    uri = spec.tracking.uri
    if uri != "embedded" and not uri.startswith(_TRACKING):
        how = "`embedded`, `sqlite:///FILE`, or the `http://HOST:PORT` of an MLflow server"
        yield Problem(("tracking", "uri"), f"`tracking.uri` must be {how}, but got {uri}")


def _source_problems(spec: SweepSpec) -> Iterator[Problem]:
    for index, source in enumerate(spec.data.sources):
        keys = ("data", "sources", str(index))
        yield from _options_problems("formats", source.format, source.options(), keys, "format")


def _refine_problems(spec: SweepSpec) -> Iterator[Problem]:
    """A library that refining masks needs is asked for before the first trial, not after its last epoch."""
    key = "evaluate.post.refine"
    searched = spec.space.get(key)
    asked = [(tuple(key.split(".")), spec.evaluate.post.refine)]
    asked += [(("space", key), value) for value in (searched.choices or () if searched else ())]
    for keys, value in asked:
        if value == "crf" and (missing := extras.missing("crf")):
            yield Problem(keys, extras.needs("`refine: crf`", *missing))


def _untrainable(spec: SweepSpec) -> Iterator[Problem]:
    for name in candidates(spec):
        if name in registry.names("models") and not declaration(name).losses:
            yield Problem(("model", "family"), f"`{name}` has nothing to train: it is a teacher, for `label.teacher`")


def _label_problems(spec: SweepSpec) -> Iterator[Problem]:
    assert spec.label is not None
    teacher = spec.label.teacher
    further = range(len(spec.label.prompts) - 1)
    places: list[Keys] = [("label", "prompt"), *(("label", "consensus", "also", str(n)) for n in further)]
    wrong: list[Problem] = []
    for place, prompt in zip(places, spec.label.prompts, strict=True):
        wrong += _options_problems("prompts", prompt.strategy, prompt.options(), place, "strategy")
    if teacher.family:  # a trained model is looked at when it is fetched
        wrong += _family_problems(teacher, [teacher.family], ("label", "teacher"))
    for n, one in enumerate(spec.label.teachers):
        wrong += _family_problems(one, [one.family], ("label", "teachers", str(n)))
    wrong += _student_problems(spec)
    yield from wrong
    if wrong or not teacher.family:
        return
    understood = prompts_of(teacher)
    for place, prompt in zip(places, spec.label.prompts, strict=True):
        needed = prompt_strategy(prompt.strategy).NEEDS
        if needed not in understood:
            yield Problem(
                (*place, "strategy"),
                f"`{prompt.strategy}` needs a teacher that takes {needed} prompts, but `{teacher.family}` as "
                f"configured takes {', '.join(sorted(understood))}",
            )


def _student_problems(spec: SweepSpec) -> Iterator[Problem]:
    """What is wrong with who learns in the rounds of a policy."""
    policy = spec.label
    assert policy is not None
    if not policy.rounds:
        if policy.student and "label.rounds" not in spec.space:
            message = "`label.student` learns in rounds, but there is none: set `label.rounds: 1`, or take it away"
            yield Problem(("label", "student"), message)
        return
    if "train" not in policy.splits and "train" in spec.data.boxes_only:
        yield Problem(
            ("label", "rounds"),
            "students learn the labels of `train`, but `label.splits` leaves it out and `data.boxes_only` hides its "
            "masks: add `train` to `label.splits`, or set `label.rounds: 0`",
        )
    model = students.student_model(policy)
    keys: Keys = ("label", "student", "model")
    wrong = list(_family_problems(model, [model.family], keys))
    yield from wrong or (Problem((*keys, "family"), message) for message in students.problems(policy))


def _policy_problems(spec: SweepSpec) -> Iterator[Problem]:
    """What is wrong with the label policies that `space` combines."""
    ranges = label_policies.searched(spec)
    if not ranges:
        return
    problems = list(_policy_range_problems(spec, ranges))
    yield from problems
    if problems:
        return
    combined: Keys = ("space", next(iter(ranges)))
    try:
        found = list(label_policies.policies(spec))
    except (ValidationError, AttributeError, TypeError, IndexError, ValueError) as error:
        message = next(problems_of(error, SweepSpec)).message if isinstance(error, ValidationError) else str(error)
        yield Problem(combined, f"a label policy is not possible: {message}")
        return
    if len(found) > label_policies.MOST:
        yield Problem(combined, f"at most {label_policies.MOST} label policies may be searched, but got {len(found)}")
        return
    for policy in found:
        for problem in _label_problems(policy.spec):
            yield Problem(combined, f"with {policy.title}: {'.'.join(problem.keys)}: {problem.message}")


def _policy_range_problems(spec: SweepSpec, ranges: Mapping[str, Range]) -> Iterator[Problem]:
    for key, range_ in ranges.items():
        where = ("space", key)
        if spec.label is None:
            yield Problem(where, "label policies can be searched only where `label` names a teacher")
        elif not range_.choices:
            yield Problem(
                where, "a label key needs `choices`: every policy labels the data once, before the first trial"
            )
        elif any(not name.startswith(label_policies.PREFIX) for name in range_.when):
            yield Problem(where, "`when` of a label key may name label keys only: labels are made before the trials")
        elif key.split(".")[1] in ("splits", "actors", "cpus_per_actor", "gpus_per_actor", "images_per_shard"):
            yield Problem(where, f"`{key}` does not change what a mask is like, so there is nothing to search")
    unsure = sorted({"val", "test"} & set(spec.data.boxes_only))
    if unsure:
        message = f"policies must be compared on human masks, but `data.boxes_only` hides those of {', '.join(unsure)}"
        yield Problem(("data", "boxes_only"), message)


def _options_problems(
    kind: registry.PluginKind, name: str, options: Mapping[str, object], keys: Keys, name_key: str
) -> Iterator[Problem]:
    try:
        model: type[BaseModel] = registry.load(kind, name).Options
        model.model_validate(options)
    except ValidationError as error:
        yield from problems_of(error, model, keys)
    except SpecError as error:
        yield Problem((*keys, name_key), str(error))


def _family_problems(model: ModelSpec, families: Sequence[str], keys: Keys) -> Iterator[Problem]:
    for name in dict.fromkeys([*families, model.family]):
        try:
            declared = declaration(name)
            registry.check_extra(f"The model family `{name}`", declared.extra)
            declared.check(declared.options.model_validate(model.family_options(name)))
        except ValidationError as error:
            yield from problems_of(error, declared.options, (*keys, name))
        except SegdistError as error:
            yield Problem((*keys, name, error.option) if error.option else (*keys, "family"), str(error))
    for name in model.model_extra or {}:
        if name not in registry.names("models"):
            yield Problem((*keys, name), f"unknown key `{name}`. {did_you_mean(name, registry.names('models'))}")


def _augment_problems(spec: SweepSpec) -> Iterator[Problem]:
    if problem := _augment_problem(spec, spec.train):
        yield Problem(("train", "augment"), problem)


def _augment_problem(spec: SweepSpec, train: TrainSpec) -> str:
    """Why images cannot be augmented like this; "" where they can."""
    groups = [source.group for source in spec.data.sources if source.group]
    for group in train.augment_groups:
        if group not in groups:
            return f"`augment_groups` names `{group}`, which is the `group` of no source. {did_you_mean(group, groups)}"
    try:
        Recipes(train.augment, train.augment_classes, train.augment_groups).check(spec.data.classes)
    except SpecError as error:
        return str(error)
    return ""


def _space_problems(spec: SweepSpec) -> Iterator[Problem]:
    for key, range_ in spec.space.items():
        where = ("space", key)
        for probe in range_.choices or (range_.low, range_.high):
            problem = _value_problem(spec, key, probe)
            if problem:
                yield Problem(where, problem)
                break
        for condition, value in range_.when.items():
            if condition not in spec.space:
                yield Problem(where, f"`when: {condition}` is not searched. {did_you_mean(condition, spec.space)}")
            elif not spec.space[condition].holds(value):
                yield Problem(where, f"`when: {condition}` never takes the value {value!r}")
    try:
        TopologicalSorter({key: range_.when for key, range_ in spec.space.items()}).prepare()
    except CycleError as error:
        yield Problem(("space",), f"`when` must not lead back to its own key, but does: {' -> '.join(error.args[1])}")
        return
    yield from _sampler_problems(spec)


def _sampler_problems(spec: SweepSpec) -> Iterator[Problem]:
    where = ("search", "sampler")
    if spec.search.sampler == "cmaes":
        if spec.search.objectives:
            yield Problem(
                where, "`cmaes` knows one objective alone. Take `tpe` or `gp`, or leave out `search.objectives`"
            )
        try:
            registry.check_extra("`search.sampler: cmaes`", "cmaes")
        except SpecError as error:
            yield Problem(where, str(error))
    if spec.search.sampler != "grid" or not spec.space:
        return
    endless = [key for key, range_ in spec.space.items() if not grid.is_countable(range_)]
    for key in endless:
        yield Problem(
            ("space", key),
            f"a grid needs values that can be counted, but {key} is any number from {spec.space[key].low} to "
            f"{spec.space[key].high}. Give it a `step`, or list its values; or take another `search.sampler`",
        )
    if endless or any(condition not in spec.space for range_ in spec.space.values() for condition in range_.when):
        return
    size = grid.count(spec.space)
    if size > spec.search.trials:
        more = "at least " if size == grid.MOST_COUNTED else ""
        yield Problem(
            where,
            f"the grid has {more}{size} points, but `search.trials` is {spec.search.trials}. Set it to the whole grid, "
            "name fewer values, or take `quasi_random`, which spreads any number of trials",
        )


def _value_problem(spec: SweepSpec, key: str, value: object) -> str:
    """Why a run cannot take this value under this key; "" where it can."""
    first = key.partition(".")[0]
    if first == "label":
        return ""  # see `_policy_problems`
    if first not in RunSpec.model_fields:
        return f"`{key}` is not a key of a run. {did_you_mean(first, RunSpec.model_fields)}"
    try:
        run = spec.run.override({key: value})
        for family in candidates(spec):
            declared = declaration(family)
            options = declared.options.model_validate(run.model.family_options(family))
            if key.startswith(f"model.{family}.") and _is_searched_alone(spec, key, family):
                declared.check(options)
        if key.startswith("train.augment"):
            return _augment_problem(spec, run.train)
    except SegdistError as error:
        return f"{value!r} is not possible: {error}"
    except ValidationError as error:
        problem = next(problems_of(error, declared.options if first == "model" else RunSpec))
        return problem.message if "unknown key" in problem.message else f"{value!r} is not possible: {problem.message}"
    except IndexError:
        return (
            f"`{key}` is of an entry that its list does not have. Add it, or search it no longer; on the command line "
            f"by '~space.{key}'"
        )
    except (AttributeError, TypeError, ValueError):
        return f"`{key}` is not a key that can be searched"
    return ""


def _is_searched_alone(spec: SweepSpec, key: str, family: str) -> bool:
    """Whether no other option of a family is searched, so that the file says what a value of this one goes with."""
    return not any(other.startswith(f"model.{family}.") for other in spec.space if other != key)


def _prompt_problems(spec: SweepSpec) -> Iterator[Problem]:
    wanted = spec.evaluate.prompts
    for family in candidates(spec):
        if wanted not in prompts_of(spec.model, family):
            reason = (
                "it cannot be shown boxes, and models that are must not be compared with models that are not"
                if wanted == "box"
                else "as configured it needs box prompts"
            )
            yield Problem(("evaluate", "prompts"), f"`{family}` does not go with `prompts: {wanted}`: {reason}")


def _metric_problems(spec: SweepSpec) -> Iterator[Problem]:
    for name in spec.evaluate.each_epoch:
        if name not in metrics.names():
            yield Problem(
                ("evaluate", "each_epoch"), f"there is no metric `{name}`. {did_you_mean(name, metrics.names())}"
            )
    for keys, name in [(("search", "metric"), spec.search.metric), *_further_objectives(spec)]:
        if problem := _objective_problem(spec, name):
            yield Problem(keys, problem)
    bounded = (*COSTS, *(f"val/{name}" for name in spec.evaluate.each_epoch if metrics.lower_is_better(name)))
    for name in spec.search.constraints:
        if name not in bounded:
            message = (
                f"`{name}` cannot be bounded from above: it is not measured in a trial, or the higher the better. "
                f"These can: {', '.join(bounded)}; and errors and distances that `evaluate.each_epoch` names"
            )
            yield Problem(("search", "constraints", name), message)


def _further_objectives(spec: SweepSpec) -> Iterator[tuple[Keys, str]]:
    """Those that trials must measure, with their place."""
    for index, name in enumerate(spec.search.objectives):
        if name not in COSTS:
            yield ("search", "objectives", str(index)), name


def _objective_problem(spec: SweepSpec, name: str) -> str:
    """Why no trial would measure this after each epoch; "" where each does."""
    split, _, value = name.partition("/")
    family = metrics.family_of(value)
    if split != "val" or not family:
        known = [*(f"val/{metric}" for metric in metrics.names()), *(COSTS if name != spec.search.metric else ())]
        return f"there is no metric `{name}`. {did_you_mean(name, known)}"
    if family not in (*spec.evaluate.each_epoch, metrics.WORST_GROUP):
        measured = ", ".join((*spec.evaluate.each_epoch, family))
        return f"`{name}` is not measured after each epoch. Set evaluate.each_epoch: [{measured}]"
    return ""


def prompts_of(model: ModelSpec, family: str | None = None) -> frozenset[str]:
    """The kinds of prompt that a family, as configured, predicts from."""
    declared = declaration(family or model.family)
    return declared.prompts(declared.options.model_validate(model.family_options(family)))


def _known_keys(model: type[BaseModel], keys: Keys) -> Iterable[str]:
    """The field names of the model that lies at a path of keys."""
    for key in keys:
        field = model.model_fields.get(key)
        inner = [a for a in _types_in(field.annotation if field else None) if issubclass(a, BaseModel)]
        if inner:
            model = inner[0]
    return model.model_fields


def _types_in(annotation: object) -> Iterator[type]:
    if isinstance(annotation, type):
        yield annotation
    for argument in get_args(annotation):
        yield from _types_in(argument)


def _union_schema(kind: registry.PluginKind, key: str, base: JsonDict) -> dict[str, object]:
    options = []
    for name in registry.names(kind):
        one = registry.load(kind, name).Options.model_json_schema()
        one["properties"] = {key: {**base["properties"][key], "const": name}, **one.get("properties", {})}
        options.append(one)
    return {"oneOf": options, "description": base.get("description", "")}


def _report(path: Path, overrides: Sequence[str], problems: Iterable[Problem]) -> SpecError:
    lines = _key_lines(path)
    lines = {new: place for keys, place in lines.items() for new in _current_names(keys)} | lines
    named = [tuple(o.lstrip("+~").partition("=")[0].split(".")) for o in overrides]
    overridden = {new for keys in named for new in _current_names(keys)}
    return SpecError("\n".join(f"{_place(path, lines, overridden, p.keys)}: {p.message}" for p in problems))


def _current_names(keys: Keys) -> list[Keys]:
    """What a path of keys is called now: two paths where the key was split."""
    if keys[0] == "space" and len(keys) > 1:
        names = renamed_keys.SPLIT.get(keys[1], (renamed_keys.current_key(keys[1]),))[:2]
        return [("space", str(name), *keys[2:]) for name in names]
    dotted = ".".join(keys)
    names = renamed_keys.SPLIT.get(dotted, (renamed_keys.current_key(dotted),))[:2]
    return [tuple(str(name).split(".")) for name in names]


def _place(path: Path, lines: Mapping[Keys, tuple[Path, int]], overridden: Iterable[Keys], keys: Keys) -> str:
    dotted = ".".join(keys)
    made_by = (keys[: len(o)] == o or (keys not in lines and o[: len(keys)] == keys) for o in overridden)
    if any(made_by):
        return f"command line: {dotted}"
    for length in range(len(keys), 0, -1):
        if keys[:length] in lines:
            file, line = lines[keys[:length]]
            return f"{file}:{line}: {dotted}"
    return f"{path}: {dotted}"


def _key_lines(path: Path) -> dict[Keys, tuple[Path, int]]:
    """Where each key stands: in the file itself, or in the group files beside it that its `defaults` list names."""
    lines = dict(_node_lines(_nodes(path), path))
    for entry in opened(path)[1].get("defaults", []):
        for group, choice in entry.items() if isinstance(entry, Mapping) else [("", entry)]:
            file = path.parent / str(group) / f"{choice}.yaml"
            if file.is_file():
                lines = {**dict(_node_lines(_nodes(file), file, Path(str(group)).parts)), **lines}
    return lines


def _nodes(file: Path) -> yaml.Node | None:
    return compose_yaml(yaml_bytes(str(file), error=SpecError), str(file), error=SpecError)


def _node_lines(node: yaml.Node | None, file: Path, keys: Keys = ()) -> Iterator[tuple[Keys, tuple[Path, int]]]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            inner = (*keys, str(key.value))
            yield inner, (file, key.start_mark.line + 1)
            yield from _node_lines(value, file, inner)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*keys, str(index)), (file, value.start_mark.line + 1)
            yield from _node_lines(value, file, (*keys, str(index)))
