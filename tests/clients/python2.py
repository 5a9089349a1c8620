"""What the Python client `replicate` 2.0.0b4 does with a server, promise by promise. Run by tests/clients.rs."""

import datetime
import io
import os
import pathlib
import tempfile
import urllib.parse
import warnings

import httpx
import replicate
from checks import TEXT, TOKEN, TOLD, URL, VERSION, WORDS, Receiver, check, main, raises, stumble
from replicate import (
    AsyncReplicate,
    AuthenticationError,
    ConflictError,
    NotFoundError,
    RateLimitError,
    Replicate,
    UnprocessableEntityError,
)
from replicate.exceptions import ModelError
from replicate.lib._files import AsyncFileOutput, FileOutput
from replicate.lib._predictions_use import URLPath

ECHO, WORDS_REF, PICTURE, PICTURES = "local/echo", "local/words", "local/picture", "local/pictures"

# Every reply has to be exactly what the client's types say, instead of being taken as it comes.
client = Replicate(_strict_response_validation=True)


def pinned(model):
    return f"local/{model}:{VERSION[model]}"


def heard(text, **more):
    """The whole output of `echo`."""
    plain = {"count": 3, "ratio": 0.5, "loud": False, "mood": "calm", "tags": [], "note": None, "key_length": None}
    return {"text": text, **plain, **more}


def of(model):
    return {"model_owner": "local", "model_name": model}


@check("http", "https")
def the_base_url_may_end_in_v1_or_not():
    for base in (URL, URL + "/", URL + "/v1", URL + "/v1/"):
        at = Replicate(bearer_token=TOKEN, base_url=base, _strict_response_validation=True)
        assert at.run(ECHO, input={"text": "a"}) == heard("a")
        assert at.models.get(**of("echo")).latest_version.id == VERSION["echo"]
        assert len(at.predictions.list().results) > 0
        assert [m.name for m in at.models.search(body="echo")] == ["echo"]
        assert at.account.get().username == TOLD["account"]
        assert at.files.create(content=b"x").size == 1


@check("http")
def run_takes_every_kind_of_input():
    everything = {"text": TEXT, "count": 7, "ratio": -1.25, "loud": False, "mood": "sad", "tags": ["ä", "b"], "note": "n"}
    assert client.run(ECHO, input=everything) == heard(**everything)
    assert client.run(ECHO, input={"text": "a", "ratio": 2}) == heard("a", ratio=2)
    assert client.run(ECHO, input={"text": "a", "key": "secret"}) == heard("a", key_length=6)
    assert client.run(ECHO, input={"text": "a", "note": None}) == heard("a")


@check("http")
def run_by_model_by_version_and_from_the_module():
    assert client.run(ECHO, input={"text": "a"}) == heard("a")
    assert client.run(pinned("echo"), input={"text": "b"}) == heard("b")
    assert replicate.run(pinned("echo"), input={"text": "c"}) == heard("c")


@check("http")
def run_waits_polls_and_falls_back_from_one_to_the_other():
    for wait in (True, 30, False):
        assert client.run(ECHO, input={"text": "a"}, wait=wait) == heard("a")
    assert client.run(ECHO, input={"text": "a"}, prefer="wait=5") == heard("a")
    slow = {"text": "one two three", "delay_ms": 800}
    assert client.run(WORDS_REF, input=slow, wait=1) == ["one ", "two ", "three"]


@check("http")
def use_makes_a_function_of_a_model():
    for ref in (ECHO, pinned("echo")):
        echo = replicate.use(ref)
        assert echo(text=TEXT, count=4) == heard(TEXT, count=4)
        # Nothing is left of references that this client could not follow.
        schemas = echo.openapi_schema()["components"]["schemas"]
        assert schemas["Input"]["properties"]["mood"]["enum"] == ["calm", "glad", "sad"]
        assert "$ref" not in str(schemas)


@check("http")
def use_puts_words_together_and_streams_them():
    for ref in (WORDS_REF, pinned("words")):
        assert replicate.use(ref)(text=TEXT) == TEXT
        assert list(replicate.use(ref, streaming=True)(text=TEXT, delay_ms=10)) == WORDS
        assert str(replicate.use(ref, streaming=True)(text=TEXT)) == TEXT


@check("http")
def use_streams_words_while_the_model_speaks():
    run = replicate.use(WORDS_REF, streaming=True).create(text="now later", delay_ms=20000)
    words = iter(run.output())
    assert next(words) == "now "
    now = client.predictions.get(prediction_id=run._prediction.id)
    assert (now.status, now.output) == ("processing", ["now "])
    assert client.predictions.cancel(prediction_id=now.id).status == "canceled"
    assert list(words) == []
    assert "50%|####| 1/2" in run.logs()


@check("http")
def use_feeds_one_model_with_what_another_says():
    words = replicate.use(WORDS_REF, streaming=True)(text="a b")
    assert replicate.use(ECHO)(text=words) == heard("a b")


@check("http")
def the_old_stream_still_streams():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert list(replicate.stream(WORDS_REF, input={"text": TEXT})) == WORDS


@check("http")
def a_prediction_is_created_looked_at_waited_for_and_listed():
    created = client.predictions.create(version=VERSION["words"], input={"text": "a b", "delay_ms": 300})
    assert (created.status, created.model, created.version) == ("starting", WORDS_REF, VERSION["words"])
    assert created.input == {"text": "a b", "delay_ms": 300}
    ended = client.predictions.wait(prediction_id=created.id)
    assert (ended.status, ended.output, ended.error, ended.data_removed) == ("succeeded", ["a ", "b"], None, False)
    assert ended.completed_at >= ended.started_at >= ended.created_at
    assert ended.metrics.total_time >= ended.metrics.predict_time > 0.3
    newest = client.predictions.list().results[0]
    assert (newest.id, newest.output) == (created.id, ["a ", "b"])


@check("http")
def a_prediction_of_a_model_waits_and_has_a_deadline():
    made = client.models.predictions.create(**of("echo"), input={"text": "a"}, prefer="wait")
    assert (made.status, made.output) == ("succeeded", heard("a"))
    made = client.models.predictions.create(**of("words"), input={"text": "a b", "delay_ms": 20000}, cancel_after="5s")
    assert (made.deadline - made.created_at).total_seconds() == 5
    assert client.predictions.wait(prediction_id=made.id).status == "canceled"


@check("http")
def lists_are_paged_to_their_end_and_cut_by_time():
    old = client.predictions.create(version=VERSION["echo"], input={"text": "old"}, prefer="wait")
    made = [client.predictions.create(version=VERSION["echo"], input={"text": str(i)}) for i in range(101)]
    ids = [prediction.id for prediction in client.predictions.list()]
    assert len(ids) == len(set(ids))
    assert {prediction.id for prediction in made} | {old.id} <= set(ids)
    first = client.predictions.list()
    assert len(first.results) == 100 and first.has_next_page()
    after = made[0].created_at - datetime.timedelta(milliseconds=1)
    later = {prediction.id for prediction in client.predictions.list(created_after=after)}
    assert {prediction.id for prediction in made} <= later
    before = {prediction.id for prediction in client.predictions.list(created_before=old.created_at)}
    assert not before & {prediction.id for prediction in made}
    assert before | later <= set(ids)


@check("http")
def models_are_listed_got_and_searched():
    listed = client.models.list(sort_by="model_created_at", sort_direction="asc")
    names = [f"{model.owner}/{model.name}" for model in listed]
    assert {"local/echo", "local/words", "local/picture", "local/pictures"} <= set(names)
    backwards = client.models.list(sort_by="model_created_at", sort_direction="desc")
    assert [f"{model.owner}/{model.name}" for model in backwards] == names[::-1]
    model = client.models.get(**of("echo"))
    assert (model.visibility, model.is_official) == ("public", False)
    assert model.default_example["output"] == heard("hello")
    assert [found.name for found in client.models.search(body="word by word")] == ["words"]
    found = client.search(query="word by word", limit=5)
    assert [(result.model.name, result.metadata.score > 0) for result in found.models] == [("words", True)]
    assert [c.slug for c in client.search(query="favourites").collections] == ["favourites"]


@check("http")
def models_are_created_changed_and_deleted():
    made = client.models.create(owner="local", name="mine", visibility="private", hardware="cpu", description="Mine.")
    assert (made.owner, made.name, made.visibility, made.latest_version) == ("local", "mine", "private", None)
    changed = client.models.update(**of("mine"), description="Ours.", readme="# Ours", github_url="https://example.org/x")
    assert (changed.description, changed.github_url) == ("Ours.", "https://example.org/x")
    assert client.models.readme.get(**of("mine")) == "# Ours"
    client.models.delete(**of("mine"))
    raises(NotFoundError, client.models.get, **of("mine"))


@check("http")
def readmes_and_examples_are_there():
    assert client.models.readme.get(**of("echo")).startswith("# echo\n")
    examples = list(client.models.examples.list(**of("echo")))
    assert [(e.status, e.input, e.output) for e in examples][0] == ("succeeded", {"text": "hello"}, heard("hello"))
    assert len(examples) == 2


@check("http")
def versions_are_listed_got_and_deleted_where_nobody_needs_them():
    assert [version.id for version in client.models.versions.list(**of("echo"))] == [VERSION["echo"]]
    version = client.models.versions.get(**of("echo"), version_id=VERSION["echo"])
    assert version.openapi_schema["components"]["schemas"]["Output"]["type"] == "object"
    doomed = {"model_owner": "zoo", "model_name": "pictures", "version_id": VERSION["pictures"]}
    client.models.versions.delete(**doomed)
    raises(NotFoundError, client.models.versions.get, **doomed)


@check("http")
def deployments_are_made_changed_used_and_deleted():
    made = client.deployments.create(
        name="mine", model=ECHO, version=VERSION["echo"], hardware="cpu", min_instances=0, max_instances=1
    )
    mine = {"deployment_owner": TOLD["account"], "deployment_name": "mine"}
    assert (made.name, made.current_release.number, made.current_release.version) == ("mine", 1, VERSION["echo"])
    # A name that is taken is refused once, and not tried again.
    again = {"model": ECHO, "version": VERSION["echo"], "hardware": "cpu", "min_instances": 0, "max_instances": 1}
    error = raises(ConflictError, client.deployments.create, name="mine", **again)
    assert error.request.headers["x-stainless-retry-count"] == "0"
    changed = client.deployments.update(**mine, max_instances=2)
    assert (changed.current_release.number, changed.current_release.configuration.max_instances) == (2, 2)
    assert [deployment.name for deployment in client.deployments.list()] == ["mine"]
    assert client.deployments.get(**mine).current_release.created_by.username == TOLD["account"]
    held = client.deployments.predictions.create(**mine, input={"text": "b"}, prefer="wait")
    assert (held.status, held.output, held.deployment) == ("succeeded", heard("b"), f"{TOLD['account']}/mine")
    client.deployments.delete(**mine)
    raises(NotFoundError, client.deployments.get, **mine)


@check("http", "https")
def files_are_sent_looked_at_listed_downloaded_and_deleted():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "grün.txt"
        path.write_bytes(b"by path")
        file = client.files.create(content=path)
        assert (file.name, file.size) == ("grün.txt", 7)
        with open(path, "rb") as opened:
            assert client.files.create(content=opened).size == 7
    sent = client.files.create(content=b"bytes", filename="a.png", type="image/png", metadata={"key": "x", "n": 1})
    assert (sent.name, sent.content_type, sent.size) == ("a.png", "image/png", 5)
    assert sent.metadata["key"] == "x"
    # A signed link is made anew each time it is shown.
    known, before = client.files.get(file_id=sent.id).model_dump(), sent.model_dump()
    assert known.pop("urls")["get"] == before.pop("urls")["get"]
    assert known == before
    assert sent.id in [file.id for file in client.files.list()]
    query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(sent.urls.download).query))
    signed = {"owner": query["owner"], "expiry": int(query["expiry"]), "signature": query["signature"]}
    assert client.files.download(file_id=sent.id, **signed).read() == b"bytes"
    raises(NotFoundError, client.files.download, file_id=sent.id, **{**signed, "expiry": signed["expiry"] + 1})
    client.files.delete(file_id=sent.id)
    raises(NotFoundError, client.files.get, file_id=sent.id)


@check("http")
def a_file_input_is_a_path_an_open_file_a_url_or_a_data_uri():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.png"
        path.write_bytes(b"abc")
        url = client.files.create(content=path).urls.get
        with open(path, "rb") as opened:
            for image in (path, opened, io.BytesIO(b"abc"), url, "data:image/png;base64,YWJj"):
                output = client.run(PICTURE, input={"image": image})
                assert httpx.get(output).content == b"cba", image
                # An output may be an input: turned twice, it is what it was.
                assert httpx.get(client.run(PICTURE, input={"image": output})).content == b"abc"
        output = client.run(PICTURE, input={"image": path}, file_encoding_strategy="base64")
        answer = httpx.get(output)
        assert (answer.content, answer.headers["content-type"]) == (b"cba", "image/png")


@check("http")
def without_tls_a_file_output_is_its_url():
    output = client.run(PICTURE, input={"image": io.BytesIO(b"abc")})
    assert isinstance(output, str) and output.startswith(URL + "/"), output
    outputs = client.run(PICTURES, input={"images": [io.BytesIO(b"abc"), io.BytesIO(b"de")]})
    assert [type(url) for url in outputs] == [str, str]


@check("http", "https")
def use_gives_files_as_paths():
    url = client.files.create(content=os.urandom(8) + b"abc").urls.get
    output = replicate.use(PICTURE)(image=url)
    assert isinstance(output, URLPath)
    with open(output, "rb") as opened:
        assert opened.read()[:3] == b"cba"
    # Straight into the next model, without a detour over this machine.
    both = replicate.use(PICTURES)(images=["data:text/plain;base64,ZGU="])
    assert pathlib.Path(both[0]).read_bytes() == b"ed"
    again = replicate.use(PICTURE)(image=output)
    assert pathlib.Path(again).read_bytes()[-3:] == b"abc"


@check("https")
def with_tls_a_file_output_is_an_object_to_read():
    output = client.run(PICTURE, input={"image": io.BytesIO(b"abc")})
    assert isinstance(output, FileOutput)
    assert output.url == str(output) and output.url.startswith(URL + "/")
    assert output.read() == b"cba"
    assert b"".join(output) == b"cba"
    assert isinstance(client.run(PICTURE, input={"image": io.BytesIO(b"abc")}, use_file_output=False), str)
    # A large one goes and comes in pieces, and whole.
    large = bytes(range(256)) * (3 << 12)
    assert b"".join(client.run(PICTURE, input={"image": io.BytesIO(large)})) == large[::-1]


@check("https")
def with_tls_lists_of_files_are_objects_too():
    outputs = client.run(PICTURES, input={"images": [io.BytesIO(b"abc"), "data:text/plain;base64,ZGU="]})
    assert [output.read() for output in outputs] == [b"cba", b"ed"]


@check("https")
async def with_tls_files_are_read_asynchronously():
    output = await AsyncReplicate().run(PICTURE, input={"image": io.BytesIO(b"abc")})
    assert isinstance(output, AsyncFileOutput)
    assert await output.read() == b"cba"
    assert b"".join([piece async for piece in output]) == b"cba"


@check("http")
def hardware_account_and_collections_are_there():
    assert [(h.sku, h.name) for h in client.hardware.list()] == [("cpu", "CPU")]
    account = client.account.get()
    assert (account.type, account.username) == ("user", TOLD["account"])
    assert [(c.slug, c.name) for c in client.collections.list()] == [("favourites", "Favourites")]
    collection = client.collections.get(collection_slug="favourites")
    assert [model.name for model in collection.models] == ["words", "echo"]


@check("http")
def trainings_are_none_and_refused_clearly():
    assert list(client.trainings.list()) == []
    create, version = client.trainings.create, {**of("echo"), "version_id": VERSION["echo"], "input": {}}
    error = raises(NotFoundError, create, **version, destination="local/nowhere")
    assert error.body["detail"] == "The specified training destination does not exist"
    error = raises(UnprocessableEntityError, create, **version, destination="local/echo")
    assert "cannot be trained" in error.body["detail"]
    raises(NotFoundError, client.trainings.get, training_id="none")
    raises(NotFoundError, client.trainings.cancel, training_id="none")


@check("http")
def webhooks_come_and_the_secret_is_there():
    assert client.webhooks.default.secret.get().key.startswith("whsec_")
    with Receiver() as receiver:
        made = client.predictions.create(
            version=VERSION["echo"], input={"text": TEXT}, webhook=receiver.url, webhook_events_filter=["completed"]
        )
        headers, body = receiver.last()
    told = type(made).model_validate_json(body)
    assert (told.id, told.status, told.output) == (made.id, "succeeded", heard(TEXT))
    assert {"webhook-id", "webhook-timestamp", "webhook-signature"} <= {name.lower() for name in headers}


@check("http")
def errors_say_what_is_wrong():
    error = raises(AuthenticationError, Replicate(bearer_token="nonsense").account.get)
    assert error.body["detail"] == "You did not pass a valid authentication token"
    raises(NotFoundError, client.models.get, **of("none"))
    raises(NotFoundError, client.run, "local/none", input={})
    raises(NotFoundError, client.predictions.get, prediction_id="none")
    error = raises(UnprocessableEntityError, client.run, "local/echo:" + "0" * 64, input={"text": "a"})
    assert error.body["title"] == "Invalid version or not permitted"
    error = raises(UnprocessableEntityError, client.run, ECHO, input={"text": "a", "count": 11, "mood": "angry"})
    assert [field["field"] for field in error.body["invalid_fields"]] == ["input.count", "input.mood"], error.body
    error = raises(UnprocessableEntityError, client.run, ECHO, input={})
    assert "text" in error.body["detail"] and "required" in error.body["detail"], error.body


@check("http")
def a_model_that_fails_raises_with_its_prediction():
    failing = {"text": "a b c", "fail_after": 1}
    for wait in (True, False):
        error = raises(ModelError, client.run, WORDS_REF, input=failing, wait=wait)
        assert str(error) == "the voice failed after 1 words", error
        assert (error.prediction.status, error.prediction.output) == ("failed", ["a "])
    error = raises(ModelError, replicate.use(WORDS_REF), **failing)
    assert error.prediction.error == "the voice failed after 1 words"
    raises(ModelError, lambda: list(replicate.use(WORDS_REF, streaming=True)(**failing)))


@check("http")
async def everything_works_asynchronously():
    async with AsyncReplicate(_strict_response_validation=True) as there:
        assert await there.run(ECHO, input={"text": TEXT}) == heard(TEXT)
        assert await there.run(pinned("echo"), input={"text": "a"}, wait=False) == heard("a")
        made = await there.predictions.create(version=VERSION["words"], input={"text": "a b", "delay_ms": 20000})
        assert (await there.predictions.cancel(prediction_id=made.id)).status == "canceled"
        assert (await there.predictions.wait(prediction_id=made.id)).status == "canceled"
        ids = [prediction.id async for prediction in there.predictions.list()]
        assert made.id in ids
        assert (await there.models.get(**of("echo"))).name == "echo"
        file = await there.files.create(content=b"abc")
        assert (await there.files.get(file_id=file.id)).size == 3
        assert (await there.run(PICTURE, input={"image": io.BytesIO(b"abc")}, use_file_output=False)).startswith(URL)
    assert await replicate.use(ECHO, use_async=True)(text="a") == heard("a")
    assert await replicate.use(WORDS_REF, use_async=True)(text=TEXT) == TEXT
    words = await replicate.use(WORDS_REF, use_async=True, streaming=True)(text=TEXT)
    assert [word async for word in words] == WORDS


@check("full")
def a_full_server_is_tried_again_and_nothing_is_made_twice():
    slow = {"version": VERSION["words"], "input": {"text": "a b", "delay_ms": 20000}}
    held = [client.predictions.create(**slow) for _ in range(2)]
    seen = []

    def look(response):
        seen.append((response.status_code, response.headers.get("retry-after")))
        if response.status_code == 429:
            # Room is made before the client comes back.
            for prediction in held:
                client.predictions.cancel(prediction_id=prediction.id)

    patient = Replicate(http_client=httpx.Client(event_hooks={"response": [look]}, timeout=60))
    before = len(list(client.predictions.list()))
    made = patient.predictions.create(version=VERSION["echo"], input={"text": "a"})
    assert [status for status, _ in seen] == [429, 201], seen
    assert 1 <= int(seen[0][1]) <= 60, seen
    assert client.predictions.wait(prediction_id=made.id).output == heard("a")
    assert len(list(client.predictions.list())) == before + 1


@check("full")
def who_is_not_patient_is_told_when_to_come_back():
    slow = {"version": VERSION["words"], "input": {"text": "a b", "delay_ms": 20000}}
    held = [client.predictions.create(**slow) for _ in range(2)]
    error = raises(RateLimitError, Replicate(max_retries=0).predictions.create, **slow)
    assert error.body["retry_after"] == int(error.response.headers["retry-after"])
    for prediction in held:
        client.predictions.cancel(prediction_id=prediction.id)


@check("stumbling")
def what_reads_is_tried_again_until_it_gets_through():
    for times, status, retry_after in ((2, 429, "1"), (1, 502, None), (2, 503, None), (1, 504, None)):
        stumble(times, method="GET", status=status, retry_after=retry_after)
        assert client.models.get(**of("echo")).latest_version.id == VERSION["echo"]
        assert stumble() == times


@check("stumbling")
def what_is_refused_is_sent_again_and_done_once():
    before = len(list(client.predictions.list()))
    for times, status in ((2, 429), (1, 503)):
        stumble(times, method="POST", status=status, retry_after="1")
        made = client.predictions.create(version=VERSION["echo"], input={"text": "a"})
        assert client.predictions.wait(prediction_id=made.id).output == heard("a")
        assert stumble() == times
    assert len(list(client.predictions.list())) == before + 2
    stumble(2, method="POST", status=503)
    assert client.run(ECHO, input={"text": "b"}) == heard("b")
    assert (stumble(), len(list(client.predictions.list()))) == (2, before + 3)


@check("stumbling")
def what_is_sent_again_because_its_reply_was_lost_is_done_once_under_a_name():
    before = len(list(client.predictions.list()))
    stumble(2, method="POST", status=502, lose=True)
    name = {"Idempotency-Key": "python2-once"}
    made = client.predictions.create(version=VERSION["echo"], input={"text": "a"}, extra_headers=name)
    assert client.predictions.wait(prediction_id=made.id).output == heard("a")
    assert (stumble(), len(list(client.predictions.list()))) == (2, before + 1)


if __name__ == "__main__":
    assert os.environ["REPLICATE_BASE_URL"] == URL
    main()
