"""The official `openai` client, used as an application would use it."""

import openai
import pytest

QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def client(node):
    return openai.OpenAI(base_url=f"{node.url}/v1", api_key="sk-anything", max_retries=0, timeout=120)


@pytest.fixture
def model(client):
    return client.models.list().data[0].id


def test_chat(client, model):
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=16, temperature=0)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason in ("stop", "length")
    assert answer.object == "chat.completion" and answer.id
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_streaming_gives_the_same_text_and_the_usage(client, model):
    whole = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=16, temperature=0)
    chunks = list(client.chat.completions.create(
        model=model, messages=QUESTION, max_tokens=16, temperature=0, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == whole.choices[0].finish_reason
    assert chunks[-1].choices == [] and chunks[-1].usage.total_tokens == whole.usage.total_tokens


def test_streaming_without_usage(client, model):
    chunks = list(client.chat.completions.create(model=model, messages=QUESTION, max_tokens=4, stream=True))
    assert all(c.choices and c.usage is None for c in chunks)


@pytest.mark.parametrize("stop", ["Paris", ["Paris", "London"]])
def test_stop(client, model, stop):
    answer = client.chat.completions.create(model=model, messages=QUESTION, max_tokens=16, temperature=0, stop=stop)
    assert "Paris" not in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "stop"


def test_seed(client, model):
    ask = lambda seed: client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Write a line of poetry."}], max_tokens=16, temperature=1, seed=seed
    ).choices[0].message.content
    assert ask(3) == ask(3)


def test_max_completion_tokens_and_conversation(client, model):
    answer = client.chat.completions.create(model=model, temperature=0, max_completion_tokens=3, messages=[
        {"role": "system", "content": "You answer in one word."}, *QUESTION,
        {"role": "assistant", "content": "Paris."}, {"role": "user", "content": "And of Italy?"}])
    assert answer.usage.completion_tokens <= 3


def test_errors_are_the_clients_own_types(client, model):
    with pytest.raises(openai.NotFoundError) as unknown:
        client.chat.completions.create(model="no-such-model", messages=QUESTION)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as empty:
        client.chat.completions.create(model=model, messages=[])
    assert empty.value.body["message"] and empty.value.body["type"] == "invalid_request_error"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=model, messages=QUESTION, temperature=9)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no-such-model")
    assert client.models.retrieve(model).id == model


def test_cancel_in_mid_stream(client, model, node):
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": "Count to a thousand."}], max_tokens=800, stream=True)
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model=model, messages=QUESTION, max_tokens=2).choices


def test_async_client(node, model):
    import asyncio

    async def ask():
        async with openai.AsyncOpenAI(base_url=f"{node.url}/v1", api_key="x") as client:
            answers = await asyncio.gather(*(client.chat.completions.create(
                model=model, messages=QUESTION, max_tokens=12, temperature=0) for _ in range(6)))
        return {a.choices[0].message.content for a in answers}

    answers = asyncio.run(ask())
    assert len(answers) == 1 and "Paris" in answers.pop()
