"""GET /v1/models."""

import httpx


async def test_the_served_checkpoint_is_the_one_model(client: httpx.AsyncClient) -> None:
    body = (await client.get("/v1/models")).json()
    assert body["object"] == "list"
    [model] = body["data"]
    assert (model["id"], model["object"], model["owned_by"]) == ("models/fake", "model", "rankrag")
    assert isinstance(model["created"], int)
