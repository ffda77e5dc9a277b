"""What PaliGemma is asked: one question a class, in words of your choice."""

from collections.abc import Mapping, Sequence

from segdist.core.errors import SpecError
from segdist.nets.paligemma.answers import check_label

LABEL = "{label}"


def questions(
    template: str, synonyms: Mapping[str, Sequence[str]], classes: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """The questions about each class, the first of which is asked at prediction time.

    Args:
        template: a text with `{label}`, e.g. `segment {label}`.
        synonyms: further words for a class, asked in turn in training; the answer always names the class itself.
        classes: the class names.

    Raises:
        SpecError: the template is empty or has no `{label}`, or synonyms name no class.
        DataError: a class name cannot be part of an answer.
    """
    if LABEL not in template:
        raise SpecError(f"A prompt must hold {LABEL}, as in `segment {LABEL}`, but is {template!r}.")
    if unknown := sorted(set(synonyms) - set(classes)):
        raise SpecError(f"`synonyms` names {', '.join(unknown)}, no class of the data: {', '.join(classes)}.")
    words = {label: (check_label(label), *synonyms.get(label, ())) for label in classes}
    if empty := [label for label, found in words.items() if not all(word.strip() for word in found)]:
        raise SpecError(f"A synonym must not be empty, but {empty[0]} has an empty one.")
    return {label: tuple(template.replace(LABEL, word) for word in found) for label, found in words.items()}
