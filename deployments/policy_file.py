"""Policy files: YAML (or JSON, which is nearly a part of it) to `moderation.policy.Policy` and back.

The reader works on YAML's nodes and knows every field, so that nothing is guessed: `off` is a word and not a
boolean, `0.45` becomes 450000 without passing through a float, and a misspelt field is an error rather than
a rule that silently does not exist. Tags, anchors, aliases, merge keys, duplicate keys, several documents and
deep nesting are refused. Every refusal is one line that names line and field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from decimal import Decimal
from enum import StrEnum
from importlib.resources import files
from pathlib import Path
from typing import Final, TypeAlias, TypeVar

import yaml

from moderation.decision import Verdict
from moderation.errors import PolicyRefused
from moderation.media import Stage, Unscreened
from moderation.policy import ALL_STAGES, Consent, InputSampling, KOfN, Policy, PolicyLimits, Rule
from moderation.scores import ONE
from moderation.taxonomy import CATEGORY_PATTERN

MAX_BYTES: Final = 64 * 1024
_MAX_DEPTH: Final = 8
_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_CLASSIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_./:@-]{0,199}")
_CATEGORY: Final = "a category such as sexual.suggestive, or a family"
_IGNORED: Final = re.compile(rf"{CATEGORY_PATTERN.pattern}|[a-z][a-z0-9_]*\.\*")
_INTEGER: Final = re.compile(r"0|[1-9][0-9]{0,14}")
"""Below 2 to the 53, the largest that canonical JSON has."""
_DECIMAL: Final = re.compile(r"(0|[1-9][0-9]{0,8})(\.[0-9]{1,12})?")
_NOT_OF_YAML: Final = re.compile(r'"(?:[^"\\]|\\.)*"|-?[0-9]+(?:\.[0-9]+)?[eE][+-]?[0-9]{1,3}(?![0-9])|\t')
"""Texts of a JSON, which stay, and what else in it YAML reads otherwise."""
_LARGEST_EXPONENT: Final = 20
_STREAMS: Final = ("off", "labelled")
_AUDIO: Final = ("keep", "drop")
_SOURCES: Final = ("any", "catalogue")
_RULE_KEYS: Final = ("category", "stages", "block_at", "review_at", "classifier")
_POLICY_KEYS: Final = (
    "name",
    "combine",
    "rules",
    "ignore",
    "requires",
    "video",
    "unscreened",
    "consent",
    "target_consent",
    "sources",
    "label",
    "stream",
    "audio",
    "limits",
)
_SAMPLING_KEYS: Final = ("interval_s", "min_frames", "first_and_last", "scene_cuts", "isolated_at_block", "run", "near", "cuts_left_out")
_OUTPUT: Final = {"frames": "every", "any_frame_at_block": "block"}
"""The only thing that can be said about output: every frame counts, one is enough."""

_E = TypeVar("_E", bound=StrEnum)
_T = TypeVar("_T")


def read_policy(text: str | bytes, *, version: int = 1) -> Policy:
    """The policy that a file says. What it leaves out has the default of `Policy`; a given `unscreened` is complete.

    Raises PolicyRefused with one line, also for what the domain refuses (an empty policy, contradictions).
    """
    at = _At(node=_document(_plain(_decoded(text))), place="")
    given = at.fields(_POLICY_KEYS, required=("name", "rules"))
    flat, by_stage = _unscreened(given["unscreened"]) if "unscreened" in given else (None, {})
    video = given["video"].fields(("input", "output")) if "video" in given else {}
    if "output" in video:
        _check_output(video["output"])
    settings = {
        "ignore": _one(given, "ignore", lambda at: _categories(at, _IGNORED, "a category, or a family with .*")),
        "requires": _one(given, "requires", lambda at: _categories(at, CATEGORY_PATTERN, _CATEGORY)),
        "combine": _one(given, "combine", _combination),
        "sampling": _one(video, "input", _sampling),
        "unscreened": flat,
        "consent": _one(given, "consent", lambda at: at.member(Consent)),
        "target_consent": _one(given, "target_consent", lambda at: at.member(Consent)),
        "sources": _one(given, "sources", lambda at: at.word(_SOURCES)),
        "label_visible": _one(given, "label", lambda at: at.fields(("visible",), required=("visible",))["visible"].boolean()),
        "stream": _one(given, "stream", lambda at: at.word(_STREAMS)),
        "audio": _one(given, "audio", lambda at: at.word(_AUDIO)),
        "limits": _one(given, "limits", _limits),
    }
    return at.build(
        lambda: Policy(
            name=given["name"].matching(_NAME, "a name of small letters, digits, - and _"),
            version=version,
            rules=tuple(_rule(rule) for rule in given["rules"].items()),
            unscreened_by_stage=by_stage,
            **{key: value for key, value in settings.items() if value is not None},  # type: ignore[arg-type]  # each is of its field's type
        )
    )


def read_policy_file(path: Path) -> Policy:
    """The policy in a file. Raises PolicyRefused, with the file's name, also when it cannot be read."""
    try:
        with path.open("rb") as file:
            return read_policy(file.read(MAX_BYTES + 1))
    except (OSError, PolicyRefused) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise PolicyRefused(f"{path.name}: {reason}") from error


def shipped_policy(name: str) -> Policy:
    """A policy that comes with the package: `default` or `marker`. Raises PolicyRefused for any other name."""
    if not _NAME.fullmatch(name):
        raise PolicyRefused(f"no policy {name!r} comes with the package")
    with_name = files("deployments").joinpath("policies", f"{name}.yaml")
    if not with_name.is_file():
        raise PolicyRefused(f"no policy {name!r} comes with the package")
    return read_policy(with_name.read_bytes())


# --- nodes ----------------------------------------------------------------------------------------


class _At:
    """One node and its place in the file, so that every complaint can name it."""

    def __init__(self, *, node: yaml.Node, place: str) -> None:
        self.node = node
        self.place = place

    def refuse(self, why: str) -> PolicyRefused:
        """One line: where and why."""
        where = f"line {self.node.start_mark.line + 1}"
        return PolicyRefused(f"{where}, {self.place}: {why}" if self.place else f"{where}: {why}")

    def build(self, make: Callable[[], _T]) -> _T:
        """What `make` gives; a refusal of the domain gets this place if it has none."""
        try:
            return make()
        except PolicyRefused as error:
            if str(error).startswith("line "):
                raise
            raise self.refuse(str(error)) from error

    def fields(self, known: Iterable[str] | None = None, *, required: Iterable[str] = ()) -> dict[str, _At]:
        """A mapping's values by key; keys are words, each at most once, all of them `known` if that is given."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.refuse("expected a mapping (key: value)")
        values: dict[str, _At] = {}
        for key_node, value_node in self.node.value:
            key = _At(node=key_node, place=self.place)
            if not isinstance(key_node, yaml.ScalarNode):
                raise key.refuse("a key must be a word")
            name = key_node.value
            if known is not None and name not in known:
                raise key.refuse(f"unknown field {_short(name)}; known are {', '.join(known)}")
            if name in values:
                raise key.refuse(f"{_short(name)} is given twice")
            values[name] = _At(node=value_node, place=f"{self.place}.{name}" if self.place else name)
        for name in required:
            if name not in values:
                raise self.refuse(f"{name} is missing")
        return values

    def items(self) -> list[_At]:
        """A list's items."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.refuse("expected a list")
        return [_At(node=item, place=f"{self.place}[{index}]") for index, item in enumerate(self.node.value)]

    def text(self, *, quoted: bool = True) -> str:
        """A scalar exactly as written; with `quoted` False it must stand without quotes."""
        if not isinstance(self.node, yaml.ScalarNode):
            raise self.refuse("expected a single value")
        if not quoted and self.node.style is not None:
            raise self.refuse("expected a bare value, without quotes")
        return str(self.node.value)

    def matching(self, pattern: re.Pattern[str], what: str, *, quoted: bool = True) -> str:
        """A scalar of this form."""
        text = self.text(quoted=quoted)
        if not pattern.fullmatch(text):
            raise self.refuse(f"expected {what}, got {_short(text)}")
        return text

    def word(self, known: Iterable[str]) -> str:
        """One of a few words."""
        text = self.text()
        if text not in known:
            raise self.refuse(f"expected {' or '.join(known)}, got {_short(text)}")
        return text

    def member(self, kind: type[_E]) -> _E:
        """A member of an enumeration."""
        return kind(self.word([str(member) for member in kind]))

    def boolean(self) -> bool:
        """`true` or `false`, nothing else that YAML 1.1 takes for one."""
        return self.matching(re.compile("true|false"), "true or false", quoted=False) == "true"

    def integer(self, *, least: int = 1) -> int:
        """A whole number of at least `least`."""
        number = int(self.matching(_INTEGER, "a whole number", quoted=False))
        if number < least:
            raise self.refuse(f"expected at least {least}, got {number}")
        return number

    def scaled(self, unit: int) -> int:
        """A decimal number times `unit`, exactly."""
        text = self.matching(_DECIMAL, "a decimal number", quoted=False)
        number = Decimal(text) * unit
        if number != number.to_integral_value():
            raise self.refuse(f"{text} has more places than the {len(str(unit)) - 1} that count")
        return int(number)


def _decoded(text: str | bytes) -> str:
    size = len(text) if isinstance(text, bytes) else len(text.encode(errors="replace"))
    if size > MAX_BYTES:
        raise PolicyRefused(f"a policy has at most {MAX_BYTES} bytes")
    try:
        return text if isinstance(text, str) else text.decode()
    except UnicodeDecodeError as error:
        raise PolicyRefused("a policy is UTF-8 text") from error


def _plain(text: str) -> str:
    """A JSON without tabs between its tokens and with exponents written out, as YAML has neither; anything else as it is."""
    if not text.lstrip().startswith("{"):
        return text
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return text
    return _NOT_OF_YAML.sub(_rewritten, text)


def _rewritten(found: re.Match[str]) -> str:
    what = found.group()
    if what == "\t":
        return " "
    if what.startswith('"') or abs(Decimal(what).adjusted()) > _LARGEST_EXPONENT:
        return what
    return f"{Decimal(what):f}"


def _document(text: str) -> yaml.Node:
    """The one document's root node; refuses what could hide or multiply content before building any of it."""
    try:
        _check_events(yaml.parse(text, Loader=yaml.SafeLoader))
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PolicyRefused(f"{'' if mark is None else f'line {mark.line + 1}: '}{error.problem or 'not YAML'}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise PolicyRefused("a policy is YAML text without control characters") from error
    if root is None:
        raise PolicyRefused("the policy is empty")
    return root


def _check_events(events: Iterable[yaml.Event]) -> None:
    depth = documents = 0
    for event in events:
        line = f"line {event.start_mark.line + 1}" if event.start_mark else "somewhere"
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None) is not None:
            raise PolicyRefused(f"{line}: anchors and aliases are not used in policies")
        if getattr(event, "tag", None) is not None:
            raise PolicyRefused(f"{line}: tags are not used in policies")
        documents += isinstance(event, yaml.DocumentStartEvent)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if documents > 1:
            raise PolicyRefused(f"{line}: one policy per file")
        if depth > _MAX_DEPTH:
            raise PolicyRefused(f"{line}: nested too deeply")


def _short(text: str) -> str:
    return json.dumps(text if len(text) <= 40 else text[:40] + "...")  # noqa: PLR2004 - what fits a line


# --- fields ---------------------------------------------------------------------------------------


def _one(given: Mapping[str, _At], key: str, read: Callable[[_At], _T]) -> _T | None:
    return read(given[key]) if key in given else None


def _rule(at: _At) -> Rule:
    given = at.fields(_RULE_KEYS, required=("category",))
    return at.build(
        lambda: Rule(
            category=given["category"].matching(CATEGORY_PATTERN, _CATEGORY),
            block_at=_one(given, "block_at", lambda at: at.scaled(ONE)),
            review_at=_one(given, "review_at", lambda at: at.scaled(ONE)),
            stages=_stages(given["stages"]) if "stages" in given else ALL_STAGES,
            classifier=_one(given, "classifier", lambda at: at.matching(_CLASSIFIER, "a classifier's name")),
        )
    )


def _stages(at: _At) -> frozenset[Stage]:
    stages = [item.member(Stage) for item in at.items()]
    if len(set(stages)) != len(stages):
        raise at.refuse("a stage is named twice")
    return frozenset(stages)


def _categories(at: _At, form: re.Pattern[str], what: str) -> tuple[str, ...]:
    named = [item.matching(form, what) for item in at.items()]
    if len(set(named)) != len(named):
        raise at.refuse("a category is named twice")
    return tuple(named)


def _combination(at: _At) -> KOfN | None:
    if isinstance(at.node, yaml.ScalarNode):
        at.word(("max",))
        return None
    return _k_of_n(at)


def _k_of_n(at: _At) -> KOfN:
    given = at.fields(("k", "of"), required=("k", "of"))
    return at.build(lambda: KOfN(k=given["k"].integer(), n=given["of"].integer()))


def _sampling(at: _At) -> InputSampling:
    given = at.fields(_SAMPLING_KEYS)
    settings = {
        "interval_ms": _one(given, "interval_s", lambda at: at.scaled(1000)),
        "min_frames": _one(given, "min_frames", lambda at: at.integer()),
        "first_and_last": _one(given, "first_and_last", lambda at: at.boolean()),
        "scene_cuts": _one(given, "scene_cuts", lambda at: at.boolean()),
        "isolated_at_block": _one(given, "isolated_at_block", lambda at: Verdict(at.word(("review", "block")))),
        "run": _one(given, "run", _k_of_n),
        "near_percent": _one(given, "near", lambda at: at.scaled(100)),
        "cuts_left_out": _one(given, "cuts_left_out", _allow_review_or_block),
    }
    chosen = {key: value for key, value in settings.items() if value is not None}
    return at.build(lambda: InputSampling(**chosen))  # type: ignore[arg-type]  # each is of its field's type


def _check_output(at: _At) -> None:
    for key, value in at.fields(_OUTPUT).items():
        value.word((_OUTPUT[key],))


_Verdicts: TypeAlias = dict[Unscreened, Verdict]


def _unscreened(at: _At) -> tuple[_Verdicts, dict[Stage, _Verdicts]]:
    """A map of kinds, or maps of kinds by stage, or both; for what is named nowhere the domain holds the media."""
    kinds, stages = [str(kind) for kind in Unscreened], [str(stage) for stage in Stage]
    flat: _Verdicts = {}
    by_stage: dict[Stage, _Verdicts] = {}
    for key, value in at.fields([*kinds, *stages]).items():
        if key in stages:
            by_stage[Stage(key)] = {Unscreened(kind): _allow_review_or_block(v) for kind, v in value.fields(kinds).items()}
        else:
            flat[Unscreened(key)] = _allow_review_or_block(value)
    return flat, by_stage


def _allow_review_or_block(at: _At) -> Verdict:
    return Verdict(at.word(("allow", "review", "block")))


def _limits(at: _At) -> PolicyLimits:
    given = at.fields([field.name for field in fields(PolicyLimits)])
    return PolicyLimits(**{name: value.integer() for name, value in given.items()})


# --- writing --------------------------------------------------------------------------------------


def write_policy(policy: Policy) -> str:
    """The file that says this policy, complete; `read_policy` of it has the same name and digest."""
    lines = [
        f"name: {_scalar(policy.name)}",
        f"combine: {'max' if policy.combine is None else _written_k_of_n(policy.combine)}",
        "rules:",
        *(f"  - {_written_rule(rule)}" for rule in policy.rules),
        f"ignore: [{', '.join(map(_scalar, policy.ignore))}]",
        f"requires: [{', '.join(map(_scalar, policy.requires))}]",
        "video:",
        f"  input: {_written_sampling(policy.sampling)}",
        f"  output: {_written_map(_OUTPUT)}",
        f"unscreened: {_written_unscreened(policy)}",
        f"consent: {policy.consent}",
        f"target_consent: {policy.target_consent}",
        f"sources: {_scalar(policy.sources)}",
        f"label: {{visible: {_written_boolean(policy.label_visible)}}}",
        f"stream: {_scalar(policy.stream)}",
        f"audio: {_scalar(policy.audio)}",
        f"limits: {_written_map({field.name: getattr(policy.limits, field.name) for field in fields(PolicyLimits)})}",
    ]
    return "\n".join(lines) + "\n"


def _written_rule(rule: Rule) -> str:
    values = {"category": _scalar(rule.category), "stages": f"[{', '.join(stage for stage in Stage if stage in rule.stages)}]"}
    if rule.classifier is not None:
        values["classifier"] = _scalar(rule.classifier)
    if rule.block_at is not None:
        values["block_at"] = _written_decimal(rule.block_at, ONE)
    if rule.review_at is not None:
        values["review_at"] = _written_decimal(rule.review_at, ONE)
    return _written_map(values)


def _written_sampling(sampling: InputSampling) -> str:
    return _written_map(
        {
            "interval_s": _written_decimal(sampling.interval_ms, 1000),
            "min_frames": sampling.min_frames,
            "first_and_last": _written_boolean(sampling.first_and_last),
            "scene_cuts": _written_boolean(sampling.scene_cuts),
            "isolated_at_block": sampling.isolated_at_block,
            "run": _written_k_of_n(sampling.run),
            "near": _written_decimal(sampling.near_percent, 100),
            "cuts_left_out": sampling.cuts_left_out,
        }
    )


def _written_unscreened(policy: Policy) -> str:
    by_stage = {
        str(stage): _written_map({str(kind): verdict for kind, verdict in verdicts.items()})
        for stage, verdicts in policy.unscreened_by_stage.items()
    }
    flat = {str(kind): str(verdict) for kind, verdict in policy.unscreened.items()}
    return _written_map({**flat, **by_stage})


def _written_map(values: Mapping[str, object]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in values.items()) + "}"


def _written_k_of_n(rule: KOfN) -> str:
    return _written_map({"k": rule.k, "of": rule.n})


def _written_boolean(value: bool) -> str:
    return "true" if value else "false"


def _written_decimal(value: int, unit: int) -> str:
    """Without trailing zeros: 450000 of 1000000 is 0.45."""
    places = f"{value % unit:0{len(str(unit)) - 1}d}".rstrip("0")
    return f"{value // unit}.{places}" if places else str(value // unit)


def _scalar(text: str) -> str:
    """Bare where every reader takes it for the same text, quoted otherwise (`off` is a boolean to YAML 1.1)."""
    bare = re.fullmatch(r"[A-Za-z][A-Za-z0-9_.*-]*", text) and yaml.safe_load(text) == text
    return text if bare else json.dumps(text)
