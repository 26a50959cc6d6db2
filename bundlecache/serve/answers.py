"""What the server reads and answers, as pydantic models: they check requests and describe them in OpenAPI."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

MAX_TEXT = 2000  # characters of a title, a condition or an id
MAX_K = 100
MAX_OPTIONS = 1000
MAX_BUNDLES = 256  # of one batch
PICTURE_CHARS = 14_000_000  # of a picture in base64: 10 MB

Id = Annotated[str, Field(min_length=1, max_length=MAX_TEXT, examples=["g2d74a3b7"])]


class Strict(BaseModel):
    """A model that refuses fields it does not know: a misspelt one is said, and not passed over."""

    model_config = ConfigDict(extra="forbid")


class NewItem(Strict):
    """An item that the catalogue does not know yet: a title, a picture (base64), or both."""

    title: str | None = Field(None, max_length=MAX_TEXT, examples=["red enamel mug"])
    image: str | None = Field(None, max_length=PICTURE_CHARS, description="A picture file in base64.")


class CompleteRequest(Strict):
    """A partial bundle, and what may complete it."""

    items: list[Id | NewItem] = Field(min_length=1, examples=[["g2d74a3b7", "g4ab88e8b"]])
    k: int = Field(5, ge=1, le=MAX_K, description="How many completions.")
    exclude: list[Id] = Field(default_factory=list, description="Ids that are never offered.")
    filter: list[Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]] = Field(
        default_factory=list,
        max_length=20,
        examples=[["price<50"]],
        description="Conditions that a completion fulfils.",
    )
    user: Id | None = Field(None, description="Whose history is read, by a run that reads one.")
    options: int | None = Field(
        None,
        ge=2,
        le=MAX_OPTIONS,
        description="How many candidates are ranked; as many as the run was trained on if left out.",
    )
    run: str | None = Field(None, max_length=MAX_TEXT, description="The run that answers; the server's if left out.")
    why: bool = Field(True, description="Say why each item is offered.")


class BatchRequest(Strict):
    """Many partial bundles at once."""

    bundles: list[CompleteRequest] = Field(min_length=1, max_length=MAX_BUNDLES)


class Item(BaseModel):
    """An item of the catalogue; ``image`` and ``sound`` are addresses on this server."""

    id: str
    title: str
    category: str | None = None
    price: float | None = None
    attributes: dict[str, str] = {}
    image: str | None = None
    sound: str | None = None


class ModalityWeight(BaseModel):
    """How much of its attention the model gave to a modality of the offered item."""

    name: str
    weight: float


class NearItem(BaseModel):
    """An item of the bundle that resembles the offered one, by these vectors; the id of a new item is empty."""

    item: Item
    similarity: float
    by: str


class TogetherItem(BaseModel):
    """An item of the bundle, with how many bundles and users have it and the offered one."""

    item: Item
    bundles: int
    users: int


class WhyAnswer(BaseModel):
    """Why an item was offered."""

    modalities: list[ModalityWeight]
    nearest: list[NearItem]
    together: list[TogetherItem]


class CompletionAnswer(BaseModel):
    """One offered item; ``probability`` is that of the method, among the candidates; null where the cosine ranks."""

    item: Item
    rank: int
    probability: float | None
    why: WhyAnswer | None = None


class Confidence(BaseModel):
    """Of so many validation ``questions`` with a margin in this range, the share that was answered right."""

    right: float
    questions: int
    margin_low: float
    margin_high: float


class CompleteAnswer(BaseModel):
    """What completes a bundle, best first; ``margin`` is the first probability less the second."""

    completions: list[CompletionAnswer]
    margin: float | None
    confidence: Confidence | None
    method: str
    run: str | None
    store_version: str
    notes: list[str]


class ErrorAnswer(BaseModel):
    """What is wrong in one sentence, and what to do."""

    error: str
    hint: str | None = None


class BatchAnswer(BaseModel):
    """An answer, or an error, for every bundle in its order."""

    answers: list[CompleteAnswer | ErrorAnswer]


class ItemPage(BaseModel):
    """A page of items; ``searched`` says whether titles had the words, or the items are those nearest in meaning."""

    items: list[Item]
    page: int
    pages: int
    total: int
    searched: Literal["words", "meaning", "all"]


class Category(BaseModel):
    """A category and its number of items."""

    name: str
    items: int


class PriceRange(BaseModel):
    """The lowest and the highest price."""

    min: float
    max: float


class CatalogueAnswer(BaseModel):
    """What the catalogue holds."""

    name: str
    items: int
    categories: list[Category]
    prices: PriceRange | None
    columns: list[str]
    modalities: list[str]


class SimilarItem(BaseModel):
    """An item that resembles another one."""

    item: Item
    similarity: float


class SimilarAnswer(BaseModel):
    """The items nearest to one, best first."""

    items: list[SimilarItem]
    modality: str | None
    notes: list[str] = []


class RunAnswer(BaseModel):
    """A finished run; ``hit_1`` is its HitRate@1 on test questions, where it was evaluated."""

    name: str
    recipe: str
    finished: str
    hit_1: float | None
    latest: bool


class ReloadAnswer(BaseModel):
    """What answers after a reload."""

    run: str | None
    store_version: str
    changed: bool


class HealthAnswer(BaseModel):
    """Whether the server is there, and whether it answers."""

    status: str
    run: str | None = None
    store_version: str | None = None


ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorAnswer, "description": "A bad request."},
    401: {"model": ErrorAnswer, "description": "The bearer token is missing or wrong."},
    404: {"model": ErrorAnswer, "description": "An unknown item or run."},
    413: {"model": ErrorAnswer, "description": "The request is too large."},
    422: {"model": ErrorAnswer, "description": "A field has a wrong type or value."},
    429: {"model": ErrorAnswer, "description": "Too many requests wait; Retry-After says when to come again."},
    503: {"model": ErrorAnswer, "description": "The server is loading, or stops."},
}
