"""The HTTP contract as types: what may come in, and what goes out.

White space around a text is taken away after its length was looked at: a limit of the schema is
one of the text as it is sent.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from rec.ranking.requests import Condition


def _filled(text: str) -> str:
    """Return a text without the white space around it.

    Raises:
        ValueError: nothing is left.
    """
    found = text.strip()
    if not found:
        raise ValueError("expected more than white space")
    return found


_STRIPPED = AfterValidator(str.strip)
_FILLED = AfterValidator(_filled)
ItemId = Annotated[str, Field(min_length=1, max_length=256), _FILLED]
UserId = Annotated[str, Field(min_length=1, max_length=256), _FILLED]
Name = Annotated[str, Field(min_length=1, max_length=64), _FILLED]
Query = Annotated[str, Field(min_length=1, max_length=512), _FILLED]
Text = Annotated[str, Field(min_length=1, max_length=32_768)]
Name256 = Annotated[str, Field(min_length=1, max_length=256), _FILLED]
Text256 = Annotated[str, Field(max_length=256), _STRIPPED]
Text1000 = Annotated[str, Field(max_length=1000), _STRIPPED]
FilterValues = Annotated[list[Name256], Field(max_length=100)]
AttributeValue = bool | int | float | Text1000 | None

ProfileValue = bool | int | float | Name256


class _Strict(BaseModel):
    """Refuse fields that nobody reads: a misspelt one must not pass in silence."""

    model_config = ConfigDict(extra="forbid", strict=True)


class FilterCondition(_Strict):
    """What an attribute must be: all that is given must hold."""

    any_of: FilterValues | None = None
    none_of: FilterValues = []
    """An item without any value of the attribute passes."""
    min: Annotated[float, Field(allow_inf_nan=False)] | None = None
    """Of a column of numbers; an item without one does not pass."""
    max: Annotated[float, Field(allow_inf_nan=False)] | None = None

    def read(self) -> Condition:
        """Return the condition in the recommender's words."""
        return Condition(
            any_of=None if self.any_of is None else tuple(self.any_of),
            none_of=tuple(self.none_of),
            least=self.min,
            most=self.max,
        )


AttributeFilters = Annotated[dict[Name, FilterValues | FilterCondition], Field(max_length=10)]
"""Attribute -> values of which one must be there, or a condition."""


def read_filters(filters: AttributeFilters) -> dict[str, tuple[str, ...] | Condition]:
    """Return a body's filters in the recommender's words."""
    return {
        name: given.read() if isinstance(given, FilterCondition) else tuple(given)
        for name, given in filters.items()
    }


class InlineEvent(_Strict):
    """One act that the caller tells along with a request."""

    item_id: ItemId | None = None
    query: Query | None = None
    event_type: Name | None = None
    timestamp: int | float | Annotated[str, _STRIPPED] | None = None


class FeedbackEvent(InlineEvent):
    """One act to store."""

    user_id: UserId
    value: Annotated[float, Field(allow_inf_nan=False)] | None = None
    session_id: Text256 | None = None
    event_id: Name256 | None = None
    impression_id: Text256 | None = None


class EventsBody(_Strict):
    """Feedback: 1 to 1000 events."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {"events": [{"user_id": "7", "item_id": "1029743", "event_type": "purchase"}]}
            ]
        },
    )
    events: Annotated[list[FeedbackEvent], Field(min_length=1, max_length=1000)]


class RecommendBody(_Strict):
    """Ask for a list."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"user_id": "7", "k": 5}]}
    )
    user_id: UserId | None = None
    events: Annotated[list[InlineEvent], Field(max_length=200)] = []
    k: Annotated[int, Field(ge=1, le=100)] = 10
    filters: AttributeFilters = {}
    exclude: Annotated[list[ItemId], Field(max_length=1000)] = []
    profile: Annotated[dict[Name, ProfileValue], Field(max_length=50)] = {}
    """Attributes of the user, over those of the users' file; for users without events."""
    penalty_weight: Annotated[float, Field(ge=0, le=10)] | None = None
    exclude_seen: bool | None = None
    diversity: Annotated[float, Field(ge=0, le=1)] | None = None
    exploration: Annotated[float, Field(ge=0, le=1)] | None = None
    request_class: Name | None = None
    """What kind of request it is, for instance ``home``: the release may explore by class."""
    explain: bool = False
    language: Literal["en", "zh"] | None = None
    is_shown: bool = True
    """False for a list that nobody will see, such as one asked for its explanations alone: it is
    not logged as an impression, and no event can follow from it."""


class EvidenceAnswer(BaseModel):
    """What the user did that an item rests on; an effect is a fall of its relevance."""

    item_id: str | None
    title: str
    event_type: str
    timestamp_ms: int
    num_events: int
    num_of_type: int
    effect: float
    shared: dict[str, list[str]]


class ExplanationAnswer(BaseModel):
    """Why an item is in the list: plain text, and what it was made from."""

    text: str
    language: Literal["en", "zh"]
    evidence: list[EvidenceAnswer]
    is_generated: bool


class SearchBody(_Strict):
    """Ask for the items that a text describes, nearer to a user first if one is named."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"query": "yogurt", "user_id": "7"}]}
    )
    query: Query
    user_id: UserId | None = None
    events: Annotated[list[InlineEvent], Field(max_length=200)] = []
    k: Annotated[int, Field(ge=1, le=100)] = 10
    filters: AttributeFilters = {}
    exclude: Annotated[list[ItemId], Field(max_length=1000)] = []
    exclude_seen: bool = False
    personal_weight: Annotated[float, Field(ge=0, le=10)] = 0.2


class RerankItemsBody(_Strict):
    """Order given items for a user; items that the catalog does not have are left out."""

    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"user_id": "7", "item_ids": ["1029743", "995242"]}]},
    )
    item_ids: Annotated[list[ItemId], Field(min_length=1, max_length=1000)]
    user_id: UserId | None = None
    events: Annotated[list[InlineEvent], Field(max_length=200)] = []
    penalty_weight: Annotated[float, Field(ge=0, le=10)] | None = None


class RerankTextsBody(_Strict):
    """Order given texts for a query, in the schema of text-embeddings-inference."""

    query: Query
    texts: Annotated[list[Annotated[Text, _FILLED]], Field(min_length=1, max_length=1000)]
    raw_scores: bool = False
    return_text: bool = False
    truncate: bool = True
    truncation_direction: Literal["right", "Right"] = "right"


class RankedText(BaseModel):
    """One text's score: (1 + cosine) / 2, or the cosine where raw scores were asked for."""

    index: int
    score: float
    text: str | None = None


class EmbeddingsBody(BaseModel):
    """Ask for embeddings, in OpenAI's schema; its other fields change nothing and are ignored."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "nextray", "input": ["red dress"]}]}
    )
    input: Text | Annotated[list[Text], Field(min_length=1, max_length=2048)]
    model: Annotated[str, Field(min_length=1, max_length=256)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1, le=100_000)] | None = None


class Embedding(BaseModel):
    """One text's embedding: numbers, or base64 of little-endian float32."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    """Tokens of all texts, uncut, with those that the encoder adds."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(BaseModel):
    """Embeddings in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: Usage


class ItemBody(BaseModel):
    """An item as the catalog has it; a name that the contract does not know is an attribute."""

    model_config = ConfigDict(
        extra="allow",
        json_schema_extra={
            "examples": [{"title": "Oat yogurt, 500 g", "category": ["yogurt"], "price": 2.5}]
        },
    )
    __pydantic_extra__: dict[str, AttributeValue]
    title: Text1000 = ""
    text: Annotated[str, Field(max_length=20_000), _STRIPPED] = ""
    category: Name256 | Annotated[list[Name256], Field(max_length=100)] = []
    tags: Name256 | Annotated[list[Name256], Field(max_length=100)] = []
    image_embedding: (
        Annotated[list[Annotated[float, Field(allow_inf_nan=False)]], Field(max_length=8192)] | None
    ) = None
    """Of the model that made the catalog's; refused where the catalog has none."""


class ItemAnswer(BaseModel):
    """What became of an item; it is durable, and every replica follows."""

    item_id: str
    status: Literal["created", "updated", "deleted"]
    request_id: str


class InterestAnswer(BaseModel):
    """One thing that a user's history is about: an attribute's value, a word, or a query."""

    kind: str
    value: str
    num_events: int
    weight: float
    """Share of all events, newer ones counting for more."""
    recent_share: float
    earlier_share: float
    trend: Literal["more", "less"] | None
    """Where the shares of the newest quarter and of what was before differ clearly."""


class InterestsAnswer(BaseModel):
    """What a user's newest events are about: counts, and a summary made of them alone."""

    text: str
    language: Literal["en", "zh"]
    num_events: int
    num_recent: int
    interests: list[InterestAnswer]
    is_generated: bool


class UserAnswer(BaseModel):
    """What is held of a user on the serving side."""

    user_id: str
    events: int
    impressions: int
    history: int
    """Events that the promoted release's sequences have of the user."""
    first_ms: int | None
    last_ms: int | None
    interests: InterestsAnswer | None
    """``None`` while nobody can tell."""


class UserExport(BaseModel):
    """All rows that the serving side holds of a user, under the id that was asked for."""

    user_id: str
    events: list[dict[str, str | int | float | None]]
    impressions: list[dict[str, Any]]
    history: list[dict[str, str | int | float | None]]


class ErasureState(BaseModel):
    """How far the erasure of a user is in the rest of the workspace."""

    erasure_id: str
    state: Literal["pending", "done", "failed"]
    """Failed: something of the user is left, or a file could not be read; ask again."""
    at_ms: int
    """When it came to this state."""
    receipt: dict[str, Any] | None = None
    """What was taken out of which file, what was searched, which models were trained on the user,
    and what an erasure does not cover."""


class ErasureReceipt(ErasureState):
    """What was deleted of a user: out of the event log by now, out of all else by ``state``."""

    user_id: str
    events: int
    impressions: int
    histories: int
    follow: str
    """Path that tells how the erasure ended, while it is pending."""


class PromoteBody(_Strict):
    """Name a release folder to promote; without one the newest evaluated index is released."""

    release: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{16}$")] | None = None
    canary: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the users that it shall answer, beside the current one; all of them if absent."""


class CanaryAnswer(BaseModel):
    """Which release answers a share of the users."""

    release: str
    share: float


class SwitchAnswer(BaseModel):
    """Which release is current now, and which was."""

    release: str
    previous: str
    canary: CanaryAnswer | None = None


class ListedItem(BaseModel):
    """One place of a list."""

    item_id: str
    title: str
    position: int
    score: float
    source: str
    propensity: float
    terms: dict[str, float]
    explanation: ExplanationAnswer | None = None


class RecommendAnswer(BaseModel):
    """A list, and how it came about."""

    request_id: str
    impression_id: str
    release: str
    items: list[ListedItem]
    degraded: list[str]
    timings_ms: dict[str, float]


class Rejection(BaseModel):
    """Why one event was not stored."""

    index: int
    reason: str


class EventsAnswer(BaseModel):
    """What became of the events; accepted ones are durable."""

    accepted: int
    duplicates: int
    rejected: list[Rejection]


class ReleaseAnswer(BaseModel):
    """Which release answers."""

    release: str
    items: int
    fingerprint: str
    canary: CanaryAnswer | None = None


class Health(BaseModel):
    """Whether something is as it should be."""

    status: Literal["ok"]


class Problem(BaseModel):
    """An error as RFC 9457 has it."""

    type: str = "about:blank"
    title: str
    status: int
    detail: str
    request_id: str
