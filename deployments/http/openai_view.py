"""OpenAI's moderation object made of a decision. Pure.

All 13 keys stand in all three maps, since strict clients demand them; a key that nothing here feeds is `false`,
0 and applied to no input, which says "not judged" in that format. Our own categories stand beside them.
"""

from __future__ import annotations

from typing import Final

from deployments.ids import to_wire
from moderation.decision import Decision, Verdict
from moderation.scores import ONE
from moderation.taxonomy import OPENAI_KEYS, openai_scores

DEFAULT_MODEL: Final = "omni-moderation-latest"


def moderation_document(decision: Decision, model: str) -> dict[str, object]:
    """The answer to a request with one image."""
    own = decision.scores()
    fed = openai_scores(own)
    flagged = {reason.category for reason in decision.reasons if reason.verdict is not Verdict.ALLOW and reason.category in own}
    flagged_keys = openai_scores(dict.fromkeys((category for category in flagged if category), ONE))
    categories = {key: key in flagged_keys for key in OPENAI_KEYS} | {category: category in flagged for category in sorted(own)}
    scores = {key: fed.get(key, 0) / ONE for key in OPENAI_KEYS} | {category: own[category] / ONE for category in sorted(own)}
    applied = {key: ["image"] if key in fed else [] for key in OPENAI_KEYS} | {category: ["image"] for category in sorted(own)}
    return {
        "id": f"modr-{decision.id.hex}",
        "model": model,
        "results": [
            {
                "flagged": decision.verdict is not Verdict.ALLOW,
                "categories": categories,
                "category_scores": scores,
                "category_applied_input_types": applied,
                "facegate": {"verdict": str(decision.verdict), "decision_id": to_wire("dec", decision.id)},
            }
        ],
    }
