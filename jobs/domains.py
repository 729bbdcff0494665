"""Recipes for five kinds of service: what their logs usually call things, and what an act weighs.

Each is the recipe ``laptop`` with names and weights of its own, so a domain is a few lines to read
and to change. A name that a log does not have is not looked for; ``--column`` and its kin add more.
Weights say how much more an act tells than a glance; they are a start, not a measurement.
"""

from collections.abc import Mapping

from jobs.recipes import LAPTOP, Recipe
from rec.data.cleaning import CleaningConfig
from rec.models.training_config import TrainingConfig
from rec.ranking.release import RankingConfig


def _domain(
    *,
    user: str,
    item: str,
    time: str,
    items: Mapping[str, str],
    weights: Mapping[str, float],
    exclude_seen: bool = True,
) -> Recipe:
    """Return a recipe; ``items`` is ours -> theirs of the catalog's columns."""
    return Recipe(
        profile=LAPTOP.profile,
        cleaning=CleaningConfig(
            column=(f"user_id={user}", f"item_id={item}", f"timestamp={time}", "event_type=action"),
            item_column=(f"item_id={item}", *(f"{ours}={name}" for ours, name in items.items())),
            user_column=(f"user_id={user}",),
        ),
        training=TrainingConfig(
            event_weight=tuple(f"{name}={weight:g}" for name, weight in weights.items())
        ),
        ranking=RankingConfig(exclude_seen=exclude_seen),
    )


SOCIAL = _domain(
    user="member_id",
    item="post_id",
    time="created_at",
    items={"text": "body", "category": "topic", "tags": "hashtags"},
    weights={"like": 2, "comment": 3, "share": 4, "follow": 4},
)
SHOP = _domain(
    user="customer_id",
    item="product_id",
    time="event_time",
    items={"title": "name", "text": "description", "category": "department"},
    weights={"cart": 2, "purchase": 4},
    exclude_seen=False,  # customers come back for the same
)
VIDEO = _domain(
    user="viewer_id",
    item="video_id",
    time="watched_at",
    items={"text": "description", "category": "genre", "tags": "keywords"},
    weights={"play": 1, "finish": 3, "like": 3},
)
NEWS = _domain(
    user="reader_id",
    item="article_id",
    time="read_at",
    items={"title": "headline", "text": "summary", "category": "section"},
    weights={"click": 1, "read": 2, "share": 3},
)
EDUCATION = _domain(
    user="learner_id",
    item="course_id",
    time="happened_at",
    items={"title": "course_name", "text": "syllabus", "category": "subject"},
    weights={"enroll": 3, "complete": 4},
)

DOMAINS: dict[str, tuple[str, Recipe]] = {
    "social": ("laptop, for posts of members", SOCIAL),
    "shop": ("laptop, for products of a shop", SHOP),
    "video": ("laptop, for videos", VIDEO),
    "news": ("laptop, for articles", NEWS),
    "education": ("laptop, for courses", EDUCATION),
}
