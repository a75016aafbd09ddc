"""Policy files: what is said is what is meant, and what is not understood is refused with its place."""

from __future__ import annotations

import json

import numpy as np
import pytest
import yaml
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from deployments.policy_file import MAX_BYTES, read_policy, read_policy_file, shipped_policy, write_policy
from moderation.adapters.classifiers import load
from moderation.adapters.classifiers.mapping import LabelMapping, shipped_mapping
from moderation.adapters.classifiers.registry import KNOWN
from moderation.decision import Verdict
from moderation.errors import PolicyRefused
from moderation.media import Stage, Unscreened
from moderation.policy import Consent, InputSampling, KOfN, Policy, PolicyLimits, Rule, check_coverage, decide, thresholds_under
from moderation.scores import ClassifierVersion
from tests.builders import make_classifier_version, make_facts, make_sheet

CONTRACT = """
name: default
combine: max                # over calibrated scores or a single classifier; or {k: 2, of: 3} over each classifier's own thresholds
rules:
  - {category: sexual.nudity_explicit, stages: [upload, source, target, output], block_at: 0.45, review_at: 0.20}
  - {category: sexual, review_at: 0.20}            # the bare family and every class without a rule of its own
ignore: [ctx.*]
video:
  input: {interval_s: 0.5, min_frames: 8, first_and_last: true, scene_cuts: true, isolated_at_block: review, run: {k: 2, of: 3}}
  output: {frames: every, any_frame_at_block: block}
unscreened: {audio: allow, trailing_data: review, gain_map: review, thumbnail: allow}
consent: required
label: {visible: true}
stream: off
audio: keep                 # re-encoded, never copied; or drop
limits: {image_bytes: 20000000, image_pixels: 64000000, frames: 300, video_bytes: 200000000, video_seconds: 120}
"""
SHORT = "name: p\nrules:\n  - {category: sexual, block_at: 0.5}\n"


def test_the_contracts_example_says_what_it_seems_to_say():
    policy = read_policy(CONTRACT, version=3)
    assert policy == Policy(
        name="default",
        version=3,
        rules=(
            Rule(category="sexual.nudity_explicit", block_at=450_000, review_at=200_000),
            Rule(category="sexual", review_at=200_000),
        ),
        ignore=("ctx.*",),
    )


def test_a_file_from_before_what_came_later_keeps_the_digest_it_had():
    digest = "sha256:95b90585a4d13c2ea9b16f8e7f9887c993f5222613ac5a87c91f5ba34cb0e6c7"
    assert read_policy(CONTRACT).digest == digest
    assert read_policy(CONTRACT + "target_consent: optional\nsources: any\nrequires: []\n").digest == digest
    for says in ("target_consent: required\n", "sources: catalogue\n", "requires: [sexual]\n"):
        assert read_policy(CONTRACT + says).digest != digest


def test_a_file_says_whose_consent_is_asked_for_and_whose_faces_are_taken():
    policy = read_policy(SHORT + "consent: optional\ntarget_consent: required\nsources: catalogue\n")
    assert (policy.consent, policy.target_consent, policy.sources) == (Consent.OPTIONAL, Consent.REQUIRED, "catalogue")
    silent = read_policy(SHORT)
    assert (silent.consent, silent.target_consent, silent.sources) == (Consent.REQUIRED, Consent.OPTIONAL, "any")


def test_what_a_file_leaves_out_has_the_default():
    assert read_policy(SHORT) == Policy(name="p", version=1, rules=(Rule(category="sexual", block_at=500_000),))


def test_json_is_a_policy_file_too():
    document = {"name": "p", "rules": [{"category": "sexual", "block_at": 0.5}], "stream": "labelled", "label": {"visible": False}}
    policy = read_policy(json.dumps(document).encode())
    assert (policy.rules[0].block_at, policy.stream, policy.label_visible) == (500_000, "labelled", False)


@pytest.mark.parametrize(
    ("number", "score"),
    [
        ("5e-1", 500_000),
        ("5E-1", 500_000),
        ("0.5e+0", 500_000),
        ("1e0", 1_000_000),
        ("1e-05", 10),
        ("10.0E-1", 1_000_000),
        ("50e-2", 500_000),
    ],
)
def test_json_may_have_tabs_and_exponents(number, score):
    text = f'{{\n\t"name":\t"p",\n\t"rules":\t[\t{{"category":"sexual",\t"block_at":\t{number}\t}}]\n\t}}\n'
    assert json.loads(text)["name"] == "p"
    assert read_policy(text).rules == (Rule(category="sexual", block_at=score),)


def test_small_numbers_as_python_writes_them_in_json_are_read():
    document = {"name": "p", "rules": [{"category": "sexual", "block_at": 0.00001}]}
    assert "e-" in json.dumps(document)
    assert read_policy(json.dumps(document)).rules[0].block_at == 10


@pytest.mark.parametrize("number", ["1e-7", "1e30", "1e999999999", "-5e-1", "2e0", "1e-999999999", "1e99999999999999999999", "0e999"])
def test_json_numbers_that_are_no_score_are_refused(number):
    with pytest.raises(PolicyRefused, match=r"line 1, rules\[0\]"):
        read_policy(f'{{"name": "p", "rules": [{{"category": "sexual", "block_at": {number}}}]}}')


def test_texts_of_a_json_stay_as_they_are():
    with pytest.raises(PolicyRefused, match='"a 5e-1"'):
        read_policy('{\t"name": "a 5e-1", "rules": [{"category": "sexual", "block_at": 0.5}]}')


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("1", 1_000_000),
        ("1.0", 1_000_000),
        ("0.000001", 1),
        ("0.29", 290_000),
        ("0.57", 570_000),
        ("0.1000000", 100_000),
        ("0.999999", 999_999),
    ],
)
def test_a_decimal_becomes_a_score_without_a_float_between(text, score):
    assert read_policy(SHORT.replace("0.5", text)).rules[0].block_at == score


def test_off_is_a_word_and_not_a_boolean():
    assert read_policy(SHORT + "stream: off\n").stream == "off"


def test_unscreened_may_be_flat_or_by_stage_and_silence_holds():
    flat = read_policy(SHORT + "unscreened: {audio: block}\n")
    assert flat.verdict_on_unscreened(Unscreened.AUDIO, Stage.UPLOAD) is Verdict.BLOCK
    assert flat.verdict_on_unscreened(Unscreened.THUMBNAIL, Stage.UPLOAD) is Verdict.REVIEW
    staged = read_policy(SHORT + "unscreened: {audio: allow, output: {audio: block}, target: {}}\n")
    assert staged.verdict_on_unscreened(Unscreened.AUDIO, Stage.SOURCE) is Verdict.ALLOW
    assert staged.verdict_on_unscreened(Unscreened.AUDIO, Stage.OUTPUT) is Verdict.BLOCK


REFUSED = {
    "": "the policy is empty",
    "# nothing\n": "the policy is empty",
    "name: p\nrules: []\n": "line 1: a policy without rules would allow everything",
    "name: p\n": "line 1: rules is missing",
    "[1, 2]": "line 1: expected a mapping (key: value)",
    "just words": "line 1: expected a mapping (key: value)",
    SHORT
    + "rulez: []\n": 'line 4: unknown field "rulez"; known are name, combine, rules, ignore, requires, video, unscreened, consent, target_consent, sources, label, stream, audio, limits',
    SHORT + "name: q\n": 'line 4: "name" is given twice',
    SHORT + "  - {category: sexual, review_at: 0.2}\n": "line 1: two rules for sexual at stage",
    SHORT + "  - {category: hate, block_at: 0.2, block_at: 0.3}\n": 'line 4, rules[1]: "block_at" is given twice',
    SHORT + "  - {category: hate}\n": "line 4, rules[1]: rule for hate: give block_at, review_at or both",
    SHORT + "  - {block_at: 0.1}\n": "line 4, rules[1]: category is missing",
    SHORT + "  - {category: hate, treshold: 0.1}\n": 'line 4, rules[1]: unknown field "treshold"',
    SHORT + "  - {category: hate, block_at: 1.5}\n": "line 4, rules[1]: rule for hate: thresholds lie in (0, 1]",
    SHORT + "  - {category: hate, block_at: 0}\n": "line 4, rules[1]: rule for hate: thresholds lie in (0, 1]",
    SHORT + "  - {category: hate, block_at: -0.5}\n": 'line 4, rules[1].block_at: expected a decimal number, got "-0.5"',
    SHORT + "  - {category: hate, block_at: .nan}\n": 'line 4, rules[1].block_at: expected a decimal number, got ".nan"',
    SHORT + "  - {category: hate, block_at: .inf}\n": "rules[1].block_at: expected a decimal number",
    SHORT + "  - {category: hate, block_at: 1e-3}\n": "rules[1].block_at: expected a decimal number",
    SHORT + "  - {category: hate, block_at: 0_1}\n": "rules[1].block_at: expected a decimal number",
    SHORT + "  - {category: hate, block_at: null}\n": "rules[1].block_at: expected a decimal number",
    SHORT + "  - {category: hate, block_at: '0.5'}\n": "line 4, rules[1].block_at: expected a bare value, without quotes",
    SHORT + "  - {category: hate, block_at: 0.1234567}\n": "rules[1].block_at: 0.1234567 has more places than the 6 that count",
    SHORT + "  - {category: hate, block_at: [0.5]}\n": "line 4, rules[1].block_at: expected a single value",
    SHORT
    + "  - {category: hate, review_at: 0.5, block_at: 0.4}\n": "rules[1]: rule for hate: review_at is above block_at and could never act",
    SHORT + "  - {category: hate, block_at: 0.5, stages: []}\n": "rules[1]: rule for hate: no stages",
    SHORT + "  - {category: hate, block_at: 0.5, stages: upload}\n": "rules[1].stages: expected a list",
    SHORT + "  - {category: hate, block_at: 0.5, stages: [upload, upload]}\n": "rules[1].stages: a stage is named twice",
    SHORT + "  - {category: hate, block_at: 0.5, stages: [uplaod]}\n": "rules[1].stages[0]: expected upload or source or target or output",
    SHORT + "  - {category: a.b.c, block_at: 0.5}\n": "rules[1].category: expected a category",
    SHORT + "  - {category: Sexual, block_at: 0.5}\n": "rules[1].category: expected a category",
    SHORT + "  - {category: haet, block_at: 0.5}\n": "line 4, rules[1]: rule for 'haet': not a category",
    SHORT + "  - {category: ctx.medical, block_at: 0.5}\n": "line 4, rules[1]: rule for ctx.medical: context describes and never blocks",
    SHORT + "  - sexual\n": "line 4, rules[1]: expected a mapping",
    SHORT + "ignore: [sexual]\n": "sexual has a rule and is ignored",
    SHORT + "ignore: ['*']\n": 'line 4, ignore[0]: expected a category, or a family with .*, got "*"',
    SHORT + "ignore: [ctx.*, ctx.*]\n": "line 4, ignore: a category is named twice",
    SHORT + "ignore: ctx.*\n": "line 4, ignore: expected a list",
    SHORT + "requires: sexual\n": "line 4, requires: expected a list",
    SHORT + "requires: [sexual.*]\n": "line 4, requires[0]: expected a category such as sexual.suggestive, or a family",
    SHORT + "requires: [sexual, sexual]\n": "line 4, requires: a category is named twice",
    SHORT + "requires: [sexaul]\n": "requires 'sexaul': not a category",
    SHORT + "ignore: [hate.*]\nrequires: [hate.symbol]\n": "hate.symbol is required and ignored",
    SHORT + "combine: min\n": 'line 4, combine: expected max, got "min"',
    SHORT + "combine: {k: 3, of: 2}\n": "line 4, combine: k of n needs 1 <= k <= n, got 3 of 2",
    SHORT + "combine: {k: 2}\n": "line 4, combine: of is missing",
    SHORT + "combine: {k: 2.0, of: 3}\n": "line 4, combine.k: expected a whole number",
    SHORT + "combine: {k: 010, of: 12}\n": "line 4, combine.k: expected a whole number",
    SHORT + "video: {input: {interval_s: 0.0001}}\n": "video.input.interval_s: 0.0001 has more places than the 3 that count",
    SHORT + "video: {input: {interval_s: 0}}\n": "line 4, video.input: video.input: interval_s and min_frames must be positive",
    SHORT + "video: {input: {isolated_at_block: allow}}\n": 'video.input.isolated_at_block: expected review or block, got "allow"',
    SHORT + "video: {input: {cuts_left_out: error}}\n": 'video.input.cuts_left_out: expected allow or review or block, got "error"',
    SHORT + "video: {input: {scene_cuts: yes}}\n": 'video.input.scene_cuts: expected true or false, got "yes"',
    SHORT + "video: {output: {frames: some}}\n": 'video.output.frames: expected every, got "some"',
    SHORT + "video: {output: {any_frame_at_block: review}}\n": "video.output.any_frame_at_block: expected block",
    SHORT + "unscreened: {audio: error}\n": "line 4, unscreened.audio: expected allow or review or block",
    SHORT + "unscreened: {sound: allow}\n": 'line 4, unscreened: unknown field "sound"',
    SHORT + "unscreened: {upload: allow}\n": "line 4, unscreened.upload: expected a mapping",
    SHORT + "unscreened: {audio: {upload: allow}}\n": "line 4, unscreened.audio: expected a single value",
    SHORT + "consent: yes\n": "line 4, consent: expected required or optional",
    SHORT + "target_consent: yes\n": 'line 4, target_consent: expected required or optional, got "yes"',
    SHORT + "sources: some\n": 'line 4, sources: expected any or catalogue, got "some"',
    SHORT + "sources: [catalogue]\n": "line 4, sources: expected a single value",
    SHORT + "label: true\n": "line 4, label: expected a mapping",
    SHORT + "label: {visible: 'true'}\n": "line 4, label.visible: expected a bare value",
    SHORT + "stream: on\n": 'line 4, stream: expected off or labelled, got "on"',
    SHORT + "audio: copy\n": "line 4, audio: expected keep or drop",
    SHORT + "limits: {frames: 0}\n": "line 4, limits.frames: expected at least 1, got 0",
    SHORT + "limits: {frames: -1}\n": "line 4, limits.frames: expected a whole number",
    SHORT + "limits: {pages: 1}\n": 'line 4, limits: unknown field "pages"',
    SHORT.replace("name: p", "name: ../p"): "line 1, name: expected a name of small letters",
    SHORT.replace("name: p", "name: [p]"): "line 1, name: expected a single value",
    SHORT.replace("name: p", "? [a, b]\n: c"): "line 1: a key must be a word",
    SHORT.replace("name: p", "name: &a p"): "line 1: anchors and aliases are not used in policies",
    SHORT + "ignore: *a\n": "line 4: anchors and aliases are not used in policies",
    SHORT + "<<: {name: q}\n": 'line 4: unknown field "<<"',
    SHORT + "audio: !!python/object/apply:os.system ['true']\n": "line 4: tags are not used in policies",
    SHORT + "audio: !!str keep\n": "line 4: tags are not used in policies",
    SHORT + "audio: !keep x\n": "line 4: tags are not used in policies",
    SHORT + "---\n" + SHORT: "one policy per file",
    SHORT + "audio: [[[[[[[[[1]]]]]]]]]\n": "line 4: nested too deeply",
    SHORT + "audio: [" * 3000: "line 4: nested too deeply",
    SHORT + "audio: {\n": "line 5: ",
    SHORT + "\taudio: keep\n": "line 4: ",
    SHORT + "audio: \x00\n": "a policy is YAML text without control characters",
    SHORT + "audio: " + "k" * 200 + "\n": '..."',
    SHORT + "#" * MAX_BYTES: "a policy has at most 65536 bytes",
}


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: text[-40:])
def test_what_is_not_understood_is_refused_in_one_line_that_names_the_place(text):
    with pytest.raises(PolicyRefused) as refused:
        read_policy(text)
    message = str(refused.value)
    assert REFUSED[text] in message
    assert "\n" not in message
    assert len(message) < 300


def test_a_document_of_nested_aliases_is_refused_before_it_grows():
    laughs = "a: &a [x]\n" + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9))
    with pytest.raises(PolicyRefused, match="line 1: anchors"):
        read_policy(laughs)


def test_bytes_that_are_not_text_are_refused():
    with pytest.raises(PolicyRefused, match="UTF-8"):
        read_policy(b"\xff\xfe\x00")


def test_a_file_is_named_in_its_refusal(tmp_path):
    bad = tmp_path / "bad.yaml"
    bad.write_text("name: p\n")
    with pytest.raises(PolicyRefused, match=r"^bad\.yaml: line 1: rules is missing$"):
        read_policy_file(bad)
    with pytest.raises(PolicyRefused, match=r"^none\.yaml: No such file"):
        read_policy_file(tmp_path / "none.yaml")
    bad.write_text(SHORT)
    assert read_policy_file(bad).name == "p"


@pytest.mark.parametrize("name", ["default", "marker"])
def test_the_shipped_policies_are_whole(name):
    policy = shipped_policy(name)
    assert policy.name == name
    explicit = policy.rule_for("sexual.nudity_explicit", Stage.UPLOAD, "nudenet")
    assert explicit is not None
    assert (explicit.review_at, explicit.block_at) == (200_000, 450_000)
    assert policy.is_ignored("ctx.face_count")
    assert policy.is_ignored("test.marker") is (name == "default")
    assert policy.requires == (("sexual",) if name == "default" else ("test.marker",))


@pytest.mark.parametrize("name", ["default", "marker"])
def test_the_shipped_policies_cover_all_that_the_first_starts_classifiers_can_say(name, tmp_path):
    models = [load(spec, models_dir=tmp_path, device="cpu", threads=1) for spec in ("nudenet", "correlation")]
    check_coverage(shipped_policy(name), [model.version for model in models])


def test_the_shipped_policies_differ_by_the_marker_alone():
    marker, default = shipped_policy("marker"), shipped_policy("default")
    assert tuple(rule for rule in marker.rules if rule.category != "test.marker") == default.rules
    assert (*marker.ignore, "test.*") == default.ignore


def version_of(mapping: LabelMapping) -> ClassifierVersion:
    return make_classifier_version(mapping.classifier, mapping.categories, calibrated=mapping.calibrated)


@pytest.mark.parametrize(("certainty", "verdict"), [(1.0, "block"), (0.8, "block"), (0.79, "review"), (0.2, "review"), (0.19, "allow")])
@pytest.mark.parametrize("name", ["falconsai", "marqo", "adamcodd", "freepik"])
def test_what_a_model_that_knows_nsfw_or_not_says_with_certainty_blocks(name, certainty, verdict):
    assert name in {model.mapping for model in KNOWN}
    mapping, policy = shipped_mapping(name), shipped_policy("default")
    labels = [*mapping.labels, *mapping.ignored]
    nsfw = next(label for label, rule in mapping.labels.items() if rule.category == "sexual")
    certain = {nsfw: certainty, labels[-1]: 1 - certainty}
    (scores,) = mapping.scores(labels, np.array([[certain.get(label, 0.0) for label in labels]]))
    version = version_of(mapping)
    check_coverage(policy, [version])
    said = decide(
        stage=Stage.UPLOAD, facts=make_facts(), required=[version], sheets=[make_sheet(scores, classifier=version)], policy=policy
    )
    assert said.verdict == verdict


def test_nudenets_thresholds_are_its_own():
    version = version_of(shipped_mapping("nudenet"))
    check_coverage(shipped_policy("default"), [version])
    assert {
        one.category: (one.review_at, one.block_at) for one in thresholds_under(Stage.UPLOAD, [version], shipped_policy("default"))
    } == {
        "sexual.nudity_explicit": (200_000, 450_000),
        "sexual.activity": (200_000, 450_000),
        "sexual.nudity_partial": (450_000, None),
        "sexual.suggestive": (None, None),
        "ctx.face_count": (None, None),
    }


@pytest.mark.parametrize("name", ["none", "../default", "", "default.yaml"])
def test_no_other_policy_is_shipped(name):
    with pytest.raises(PolicyRefused):
        shipped_policy(name)


categories = st.sampled_from(
    ["sexual", "sexual.activity", "sexual.suggestive", "violence", "hate.symbol", "test.marker", "test.true", "test.off"]
)
scores = st.integers(1, 1_000_000)
thresholds = st.one_of(
    st.tuples(scores, st.none()), st.tuples(st.none(), scores), st.tuples(scores, scores).map(lambda pair: (max(pair), min(pair)))
)
rules = st.builds(
    lambda category, pair, stages, classifier: Rule(
        category=category, block_at=pair[0], review_at=pair[1], stages=stages, classifier=classifier
    ),
    categories,
    thresholds,
    st.frozensets(st.sampled_from(Stage), min_size=1),
    st.none() | st.sampled_from(["nudenet", "org/model@abc", "true", "1.5", "null"]),
)
k_of_n = st.tuples(st.integers(1, 5), st.integers(0, 5)).map(lambda pair: KOfN(k=pair[0], n=sum(pair)))
unscreened = st.dictionaries(st.sampled_from(Unscreened), st.sampled_from([Verdict.ALLOW, Verdict.REVIEW, Verdict.BLOCK]))


@st.composite
def policies(draw):
    try:
        return Policy(
            name=draw(st.from_regex(r"[a-z][a-z0-9_-]{0,10}", fullmatch=True)),
            version=draw(st.integers(1, 99)),
            rules=tuple(draw(st.lists(rules, min_size=1, max_size=5))),
            ignore=tuple(
                draw(st.lists(st.sampled_from(["ctx.*", "other.*", "selfharm", "test.no", "substance.drug_tobacco_alcohol"]), unique=True))
            ),
            requires=tuple(draw(st.lists(categories, unique=True, max_size=3))),
            combine=draw(st.none() | k_of_n),
            sampling=InputSampling(
                interval_ms=draw(st.integers(1, 100_000)),
                min_frames=draw(st.integers(1, 100)),
                first_and_last=draw(st.booleans()),
                scene_cuts=draw(st.booleans()),
                isolated_at_block=draw(st.sampled_from([Verdict.REVIEW, Verdict.BLOCK])),
                run=draw(k_of_n),
                cuts_left_out=draw(st.sampled_from([Verdict.ALLOW, Verdict.REVIEW, Verdict.BLOCK])),
            ),
            unscreened=draw(unscreened),
            unscreened_by_stage=draw(st.dictionaries(st.sampled_from(Stage), unscreened)),
            consent=draw(st.sampled_from(Consent)),
            target_consent=draw(st.sampled_from(Consent)),
            sources=draw(st.sampled_from(["any", "catalogue"])),
            label_visible=draw(st.booleans()),
            stream=draw(st.sampled_from(["off", "labelled"])),
            audio=draw(st.sampled_from(["keep", "drop"])),
            limits=PolicyLimits(frames=draw(st.integers(1, 10**9)), image_pixels=draw(st.integers(1, 10**12))),
        )
    except PolicyRefused:
        return reject()


@settings(max_examples=40)
@given(policies())
def test_writing_and_reading_a_policy_keeps_it_and_its_digest(policy):
    again = read_policy(write_policy(policy), version=policy.version)
    assert again == policy
    assert again.digest == policy.digest


@settings(max_examples=40)
@given(policies())
def test_what_is_written_is_yaml_to_everyone_else_as_well(policy):
    document = yaml.safe_load(write_policy(policy))
    assert [rule["category"] for rule in document["rules"]] == [rule.category for rule in policy.rules]
    assert document["name"] == policy.name


@given(st.text(max_size=300))
def test_no_text_raises_anything_but_a_refusal(text):
    with pytest.raises(PolicyRefused):
        read_policy(text)


@given(st.integers(0, len(CONTRACT) - 1), st.characters(codec="utf-8"))
def test_a_spoilt_file_is_read_or_refused_and_nothing_else(position, letter):
    try:
        read_policy(CONTRACT[:position] + letter + CONTRACT[position + 1 :])
    except PolicyRefused as refused:
        assert "\n" not in str(refused)  # noqa: PT017 - most spoilt files are refused, some are comments
