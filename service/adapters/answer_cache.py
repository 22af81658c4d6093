"""Whole answers in a cache of bytes."""

from pydantic import TypeAdapter, ValidationError

from service.core.cache_keys import CacheKeys
from service.ports import Cache
from service.types import Answer, Query

_ANSWERS = TypeAdapter(Answer)


class CachedAnswers:
    """The AnswerCache port. What can't be read any more (an older version's, say) is a miss."""

    def __init__(self, cache: Cache, keys: CacheKeys) -> None:
        self._cache = cache
        self._keys = keys

    async def get(self, query: Query) -> Answer | None:
        value = (await self._cache.get_many("answer", [self._keys.answer(query)]))[0]
        if value is None:
            return None
        try:
            return _ANSWERS.validate_json(value)
        except ValidationError:
            return None

    async def put(self, query: Query, answer: Answer) -> None:
        await self._cache.set_many("answer", {self._keys.answer(query): _ANSWERS.dump_json(answer)})
