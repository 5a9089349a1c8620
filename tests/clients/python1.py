"""What the Python client `replicate` 1.0.7 does with a server, promise by promise. Run by tests/clients.rs."""

import io
import json
import os
import pathlib
import tempfile

import replicate
from checks import TEXT, TOKEN, TOLD, URL, VERSION, WORDS, Receiver, check, main, raises, spoken, stumble
from replicate.client import Client
from replicate.exceptions import ModelError, ReplicateError
from replicate.helpers import FileOutput
from replicate.stream import ServerSentEvent

ECHO, WORDS_REF, PICTURE, PICTURES = "local/echo", "local/words", "local/picture", "local/pictures"
Event = ServerSentEvent.EventType


def pinned(model):
    return f"local/{model}:{VERSION[model]}"


def made_so_far():
    """The number of predictions that there are."""
    return sum(len(page) for page in replicate.paginate(replicate.predictions.list))


def heard(text, **more):
    """The whole output of `echo`."""
    plain = {"count": 3, "ratio": 0.5, "loud": False, "mood": "calm", "tags": [], "note": None, "key_length": None}
    return {"text": text, **plain, **more}


@check("http", "https")
def the_base_url_may_end_in_v1_or_not():
    for base in (URL, URL + "/", URL + "/v1", URL + "/v1/"):
        client = Client(api_token=TOKEN, base_url=base)
        assert client.run(ECHO, input={"text": "a"}) == heard("a")
        events = client.stream(WORDS_REF, input={"text": "a b"})
        assert [e.data for e in events if e.event != Event.LOGS] == ["a ", "b", "{}"]
        assert client.models.get(ECHO).latest_version.id == VERSION["echo"]
        assert len(client.predictions.list()) > 0
        assert len(client.models.search("echo").results) == 1
        assert client.accounts.current().username == TOLD["account"]
        assert client.files.create(io.BytesIO(b"x")).size == 1


@check("http")
def run_takes_every_kind_of_input():
    everything = {"text": TEXT, "count": 7, "ratio": -1.25, "loud": False, "mood": "sad", "tags": ["ä", "b"], "note": "n"}
    assert replicate.run(ECHO, input=everything) == heard(**everything)
    # What may be left out may be left out; whole numbers are fine for fractions.
    assert replicate.run(ECHO, input={"text": "a", "ratio": 2}) == heard("a", ratio=2)
    assert replicate.run(ECHO, input={"text": "a", "key": "secret"}) == heard("a", key_length=6)
    assert replicate.run(ECHO, input={"text": "a", "note": None}) == heard("a")


@check("http")
def run_by_model_by_version_and_by_version_object():
    assert replicate.run(ECHO, input={"text": "a"}) == heard("a")
    assert replicate.run(pinned("echo"), input={"text": "b"}) == heard("b")
    model = replicate.models.get(ECHO)
    assert replicate.run(model, input={"text": "c"}) == heard("c")
    assert replicate.run(model.versions.get(VERSION["echo"]), input={"text": "d"}) == heard("d")


@check("http")
def run_waits_polls_and_falls_back_from_one_to_the_other():
    for wait in (True, 30, False):
        assert replicate.run(ECHO, input={"text": "a"}, wait=wait) == heard("a")
    # The hold of a second ends while the model speaks: the client polls on, and gets everything.
    slow = {"text": "one two three", "delay_ms": 800}
    assert replicate.run(WORDS_REF, input=slow, wait=1) == ["one ", "two ", "three"]


@check("http")
def run_of_an_iterator_version_iterates():
    for wait in (True, False):
        # Polling, 1.0.7 leaves out what the reply to its request contains: nothing may be in there yet.
        output = replicate.run(pinned("words"), input={"text": TEXT, "delay_ms": 40}, wait=wait)
        assert not isinstance(output, list)
        assert spoken(output) == WORDS


@check("http", "https")
def stream_gives_every_event_with_an_id_and_the_text_exactly():
    for ref in (WORDS_REF, pinned("words")):
        events = list(replicate.stream(ref, input={"text": TEXT, "delay_ms": 5}))
        assert [e.data for e in events if e.event == Event.OUTPUT] == WORDS
        assert "".join(str(e) for e in events) == TEXT
        assert all(e.id for e in events)
        assert (events[-1].event, events[-1].data) == (Event.DONE, "{}")
        # Ids never come back.
        ids = [e.id for e in events if e.event == Event.OUTPUT]
        assert len(set(ids)) == len(ids)


@check("http")
def stream_gives_words_while_the_model_speaks():
    prediction = replicate.predictions.create(model=WORDS_REF, input={"text": "now later", "delay_ms": 20000})
    events = prediction.stream()
    assert next(e.data for e in events if e.event == Event.OUTPUT) == "now "
    prediction.reload()
    assert (prediction.status, prediction.output) == ("processing", ["now "])
    prediction.cancel()
    assert prediction.status == "canceled"
    assert [(e.event, json.loads(e.data)) for e in events if e.event != Event.LOGS] == [(Event.DONE, {"reason": "canceled"})]


@check("http")
def stream_raises_what_the_model_says_when_it_fails():
    got = []

    def read():
        for event in replicate.stream(WORDS_REF, input={"text": "a b c", "fail_after": 2}):
            got.append(str(event))

    error = raises(RuntimeError, read)
    assert json.loads(str(error)) == {"detail": "the voice failed after 2 words"}, error
    assert "".join(got) == "a b "


@check("http")
def a_prediction_is_created_looked_at_waited_for_and_listed():
    created = replicate.predictions.create(version=VERSION["words"], input={"text": "a b", "delay_ms": 300})
    assert created.status == "starting"
    assert (created.model, created.version) == (WORDS_REF, VERSION["words"])
    assert created.input == {"text": "a b", "delay_ms": 300}
    assert replicate.predictions.get(created.id).id == created.id
    created.wait()
    assert (created.status, created.output, created.error) == ("succeeded", ["a ", "b"], None)
    assert created.completed_at >= created.started_at >= created.created_at
    assert created.metrics["predict_time"] > 0.3
    assert (created.progress.percentage, created.progress.current, created.progress.total) == (1.0, 2, 2)
    newest = replicate.predictions.list().results[0]
    assert (newest.id, newest.status, newest.output) == (created.id, "succeeded", ["a ", "b"])


@check("http")
def create_takes_a_model_a_version_object_and_positions():
    create = replicate.predictions.create
    version = replicate.models.get(ECHO).versions.get(VERSION["echo"])
    for made in (
        create(version, {"text": "a"}),
        create(model=ECHO, input={"text": "a"}),
        create(model=("local", "echo"), input={"text": "a"}),
        replicate.models.predictions.create(ECHO, {"text": "a"}),
    ):
        assert made.status == "starting"
        made.wait()
        assert (made.status, made.output) == ("succeeded", heard("a"))


@check("http")
def create_waits_when_it_is_told_to():
    made = replicate.predictions.create(version=VERSION["echo"], input={"text": "a"}, wait=True)
    assert (made.status, made.output) == ("succeeded", heard("a"))
    made = replicate.models.predictions.create(ECHO, {"text": "a"}, wait=5)
    assert (made.status, made.output) == ("succeeded", heard("a"))


@check("http")
def a_running_prediction_is_cancelled():
    made = replicate.predictions.create(version=VERSION["words"], input={"text": "a b", "delay_ms": 20000})
    canceled = replicate.predictions.cancel(made.id)
    assert (canceled.id, canceled.status) == (made.id, "canceled")
    made.wait()
    assert made.status == "canceled"


@check("http")
def lists_are_paged_to_their_end():
    made = {replicate.predictions.create(version=VERSION["echo"], input={"text": str(i)}).id for i in range(101)}
    pages = list(replicate.paginate(replicate.predictions.list))
    assert len(pages) >= 2
    assert [len(page) for page in pages[:-1]] == [100] * (len(pages) - 1)
    ids = [prediction.id for page in pages for prediction in page]
    assert len(ids) == len(set(ids))
    assert made <= set(ids)


@check("http")
def models_are_listed_got_and_searched():
    names = {model.id for page in replicate.paginate(replicate.models.list) for model in page}
    assert {"local/echo", "local/words", "local/picture", "local/pictures"} <= names
    model = replicate.models.get(ECHO)
    assert (model.owner, model.name, model.visibility) == ("local", "echo", "public")
    assert model.description == "Gives back what it was told, one field of each kind."
    assert model.default_example.input == {"text": "hello"}
    assert model.default_example.output == heard("hello")
    assert model.run_count > 0
    assert model.latest_version.openapi_schema["components"]["schemas"]["Input"]["required"] == ["text"]
    assert [found.id for found in replicate.models.search("word by word")] == ["local/words"]
    assert list(replicate.models.search("nothing of the kind")) == []


@check("http")
def models_are_created_and_deleted():
    model = replicate.models.create("local", "mine", visibility="private", hardware="cpu", description="Mine.")
    assert (model.id, model.visibility, model.description, model.latest_version) == ("local/mine", "private", "Mine.", None)
    assert raises(ReplicateError, replicate.models.create, "local", "mine", visibility="private", hardware="cpu").status == 409
    assert replicate.models.delete("local/mine") is True
    assert raises(ReplicateError, replicate.models.get, "local/mine").status == 404


@check("http")
def versions_are_listed_got_and_deleted_where_nobody_needs_them():
    model = replicate.models.get(ECHO)
    assert [version.id for version in model.versions.list()] == [VERSION["echo"]]
    version = model.versions.get(VERSION["echo"])
    schemas = version.openapi_schema["components"]["schemas"]
    assert set(schemas["Input"]["properties"]) == {"text", "count", "ratio", "loud", "mood", "tags", "note", "key"}
    assert schemas["Output"]["type"] == "object"
    # 1.0.7 takes 204 alone for success; the answer of today's API is 202.
    doomed = replicate.models.get("zoo/pictures")
    assert doomed.versions.delete(doomed.latest_version.id) is False
    assert raises(ReplicateError, doomed.versions.get, doomed.latest_version.id).status == 404


@check("http")
def deployments_are_made_changed_used_and_deleted():
    made = replicate.deployments.create(
        name="mine", model=ECHO, version=VERSION["echo"], hardware="cpu", min_instances=0, max_instances=1
    )
    owner = TOLD["account"]
    assert (made.owner, made.name, made.current_release.number) == (owner, "mine", 1)
    assert (made.current_release.model, made.current_release.version) == (ECHO, VERSION["echo"])
    changed = replicate.deployments.update(deployment_owner=owner, deployment_name="mine", max_instances=2)
    assert (changed.current_release.number, changed.current_release.configuration.max_instances) == (2, 2)
    assert [d.name for d in replicate.deployments.list()] == ["mine"]
    deployment = replicate.deployments.get(f"{owner}/mine")
    prediction = deployment.predictions.create({"text": "a"})
    prediction.wait()
    assert prediction.output == heard("a")
    held = replicate.deployments.predictions.create(f"{owner}/mine", {"text": "b"}, wait=True)
    assert (held.status, held.output) == ("succeeded", heard("b"))
    assert replicate.predictions.create(deployment=f"{owner}/mine", input={"text": "c"}).status == "starting"
    assert replicate.deployments.delete(owner, "mine") is True
    assert raises(ReplicateError, replicate.deployments.get, f"{owner}/mine").status == 404


@check("http", "https")
def files_are_sent_looked_at_listed_and_deleted():
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "grün.txt"
        path.write_bytes(b"by path")
        for sent in (path, str(path)):
            file = replicate.files.create(sent)
            assert (file.name, file.content_type, file.size) == ("grün.txt", "text/plain", 7)
        with open(path, "rb") as opened:
            assert replicate.files.create(opened).size == 7
    file = replicate.files.create(io.BytesIO(b"bytes"), filename="a.png", metadata={"key": {"n": 1}})
    assert (file.name, file.content_type, file.metadata) == ("a.png", "image/png", {"key": {"n": 1}})
    assert file.checksums["sha256"] == "277089d91c0bdf4f2e6862ba7e4a07605119431f5d13f726dd352b06f1b206a9"
    # A signed link is made anew each time it is shown.
    known = replicate.files.get(file.id)
    assert known.copy(update={"urls": file.urls}) == file and known.urls["get"] == file.urls["get"]
    assert file.id in [listed.id for listed in replicate.files.list()]
    assert replicate.files.delete(file.id) is True
    assert raises(ReplicateError, replicate.files.get, file.id).status == 404


@check("http")
def a_file_input_is_a_path_an_open_file_a_url_or_a_data_uri():
    def turned(image, **more):
        prediction = replicate.models.predictions.create(PICTURE, {"image": image}, wait=True, **more)
        assert prediction.status == "succeeded", prediction.error
        return replicate.run(PICTURE, input={"image": prediction.output}), prediction

    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.png"
        path.write_bytes(b"abc")
        with open(path, "rb") as opened:
            inputs = [path, opened, replicate.files.create(path).urls["get"], "data:image/png;base64,YWJj"]
            for image in inputs:
                twice, prediction = turned(image)
                response = replicate.default_client._client.get(prediction.output)
                assert (response.content, response.headers["content-type"]) == (b"cba", "image/png"), image
                # An output may be an input: turned twice, it is what it was.
                assert replicate.default_client._client.get(twice).content == b"abc"
            opened.seek(0)
            assert turned(opened, file_encoding_strategy="base64")[1].status == "succeeded"
    assert turned(io.BytesIO(b"abc"))[1].status == "succeeded"


@check("http")
def without_tls_a_file_output_is_its_url():
    output = replicate.run(PICTURE, input={"image": io.BytesIO(b"abc")})
    assert isinstance(output, str) and output.startswith(URL + "/"), output
    output = replicate.run(PICTURES, input={"images": [io.BytesIO(b"abc"), io.BytesIO(b"de")]})
    assert [type(url) for url in output] == [str, str]


@check("https")
def with_tls_a_file_output_is_an_object_to_read():
    output = replicate.run(PICTURE, input={"image": io.BytesIO(b"abc")})
    assert isinstance(output, FileOutput)
    assert output.url == str(output) and output.url.startswith(URL + "/")
    assert output.read() == b"cba"
    assert b"".join(output) == b"cba"
    assert isinstance(replicate.run(PICTURE, input={"image": io.BytesIO(b"abc")}, use_file_output=False), str)
    # A large one goes and comes in pieces, and whole.
    large = bytes(range(256)) * (3 << 12)
    assert b"".join(replicate.run(PICTURE, input={"image": io.BytesIO(large)})) == large[::-1]


@check("https")
def with_tls_lists_of_files_are_objects_too():
    outputs = replicate.run(PICTURES, input={"images": [io.BytesIO(b"abc"), "data:text/plain;base64,ZGU="]})
    assert [output.read() for output in outputs] == [b"cba", b"ed"]
    again = replicate.run(PICTURES, input={"images": [output.url for output in outputs]})
    assert [output.read() for output in again] == [b"abc", b"de"]


@check("https")
async def with_tls_files_are_read_asynchronously():
    output = await replicate.async_run(PICTURE, input={"image": io.BytesIO(b"abc")})
    assert await output.aread() == b"cba"
    assert b"".join([piece async for piece in output]) == b"cba"


@check("http")
def hardware_account_and_collections_are_there():
    assert [(h.sku, h.name) for h in replicate.hardware.list()] == [("cpu", "CPU")]
    account = replicate.default_client.accounts.current()
    assert (account.type, account.username, account.name) == ("user", TOLD["account"], TOLD["account"])
    assert [(c.slug, c.name) for c in replicate.collections.list()] == [("favourites", "Favourites")]
    collection = replicate.collections.get("favourites")
    assert [model.id for model in collection] == ["local/words", "local/echo"]


@check("http")
def trainings_are_none_and_refused_clearly():
    assert list(replicate.trainings.list()) == []
    create = replicate.trainings.create
    error = raises(ReplicateError, create, version=pinned("echo"), input={}, destination="local/nowhere")
    assert (error.status, error.detail) == (404, "The specified training destination does not exist")
    error = raises(ReplicateError, create, version=pinned("echo"), input={}, destination="local/echo")
    assert error.status == 422 and "cannot be trained" in error.detail
    assert raises(ReplicateError, replicate.trainings.get, "none").status == 404
    assert raises(ReplicateError, replicate.trainings.cancel, "none").status == 404


@check("http")
def webhooks_come_signed_and_validate():
    secret = replicate.webhooks.default.secret()
    with Receiver() as receiver:
        made = replicate.predictions.create(
            version=VERSION["echo"], input={"text": TEXT}, webhook=receiver.url, webhook_events_filter=["completed"]
        )
        headers, body = receiver.last()
    told = json.loads(body)
    assert (told["id"], told["status"], told["output"]) == (made.id, "succeeded", heard(TEXT))
    replicate.webhooks.validate(headers=headers, body=body, secret=secret, tolerance=300)
    invalid = raises(ValueError, replicate.webhooks.validate, headers=headers, body=body + " ", secret=secret)
    assert "signature is invalid" in str(invalid)


@check("http")
def webhooks_tell_of_everything_from_the_start_to_the_end():
    secret, told = replicate.webhooks.default.secret(), []
    with Receiver() as receiver:
        made = replicate.predictions.create(
            model=WORDS_REF,
            input={"text": "a b c", "delay_ms": 700},
            webhook=receiver.url,
            webhook_events_filter=["start", "output", "logs", "completed"],
        )
        while not told or not told[-1]["completed_at"]:
            headers, body = receiver.got.get(timeout=60)
            replicate.webhooks.validate(headers=headers, body=body, secret=secret, tolerance=300)
            told.append(json.loads(body))
    assert {prediction["id"] for prediction in told} == {made.id}
    assert told[0]["status"] in ("starting", "processing") and told[-1]["status"] == "succeeded", told
    outputs = [prediction["output"] or [] for prediction in told]
    assert outputs[-1] == ["a ", "b ", "c"]
    assert all(output == outputs[-1][: len(output)] for output in outputs)
    assert any(0 < len(output) < 3 for output in outputs), outputs


@check("http")
def errors_say_what_is_wrong():
    error = raises(ReplicateError, Client(api_token="nonsense").accounts.current)
    assert (error.status, error.title) == (401, "Unauthenticated")
    assert error.detail == "You did not pass a valid authentication token"
    assert raises(ReplicateError, replicate.models.get, "local/none").status == 404
    assert raises(ReplicateError, replicate.run, "local/none", input={}).status == 404
    assert raises(ReplicateError, replicate.predictions.get, "none").status == 404
    error = raises(ReplicateError, replicate.run, "local/echo:" + "0" * 64, input={"text": "a"})
    assert (error.status, error.title) == (422, "Invalid version or not permitted")
    error = raises(ReplicateError, replicate.run, ECHO, input={})
    assert error.status == 422 and "text" in error.detail and "required" in error.detail, error.detail
    error = raises(ReplicateError, replicate.run, ECHO, input={"text": "a", "count": 11})
    assert error.status == 422 and "count" in error.detail and "10" in error.detail, error.detail
    error = raises(ReplicateError, replicate.run, ECHO, input={"text": "a", "mood": "angry"})
    assert error.status == 422 and "mood" in error.detail, error.detail


@check("http")
def a_model_that_fails_raises_with_its_prediction():
    failing = {"text": "a b c", "fail_after": 1}
    for wait in (True, False):
        error = raises(ModelError, replicate.run, WORDS_REF, input=failing, wait=wait)
        assert str(error) == "the voice failed after 1 words", error
        assert (error.prediction.status, error.prediction.output) == ("failed", ["a "])
    error = raises(ModelError, lambda: list(replicate.run(pinned("words"), input=failing, wait=False)))
    assert error.prediction.status == "failed"


@check("http")
async def everything_works_asynchronously():
    assert await replicate.async_run(ECHO, input={"text": TEXT}) == heard(TEXT)
    assert await replicate.async_run(ECHO, input={"text": "a"}, wait=False) == heard("a")
    words = await replicate.async_run(pinned("words"), input={"text": TEXT})
    assert [word async for word in words] == WORDS
    events = await replicate.async_stream(WORDS_REF, input={"text": TEXT})
    assert [e.data async for e in events if e.event == Event.OUTPUT] == WORDS
    made = await replicate.predictions.async_create(version=VERSION["words"], input={"text": "a b", "delay_ms": 20000})
    await made.async_cancel()
    assert made.status == "canceled"
    assert (await replicate.predictions.async_get(made.id)).status == "canceled"
    assert made.id in [p.id for p in await replicate.predictions.async_list()]
    assert (await replicate.models.async_get(ECHO)).id == ECHO
    file = await replicate.files.async_create(io.BytesIO(b"abc"))
    assert (await replicate.files.async_get(file.id)).size == 3
    output = await replicate.async_run(PICTURE, input={"image": io.BytesIO(b"abc")}, use_file_output=False)
    assert output.startswith(URL)
    assert (await replicate.default_client.accounts.async_current()).username == TOLD["account"]


@check("full")
def a_full_server_refuses_once_and_nothing_is_made_twice():
    slow = {"text": "a b", "delay_ms": 20000}
    held = [replicate.predictions.create(version=VERSION["words"], input=slow) for _ in range(2)]
    before = made_so_far()
    # 1.0.7 repeats no POST: the caller is told, with the time to come back after.
    error = raises(ReplicateError, replicate.predictions.create, version=VERSION["words"], input=slow)
    assert error.status == 429, error
    assert made_so_far() == before
    for prediction in held:
        prediction.cancel()
    assert replicate.run(ECHO, input={"text": "a"}) == heard("a")


@check("stumbling")
def what_reads_is_tried_again_until_it_gets_through():
    made = replicate.run(ECHO, input={"text": "a"})
    first = replicate.predictions.list().results[0]
    for status, retry_after in ((429, "1"), (503, None), (504, None)):
        stumble(2, method="GET", status=status, retry_after=retry_after)
        assert replicate.predictions.get(first.id).output == made
        assert stumble() == 2
    stumble(1, method="GET", status=503)
    assert replicate.models.get(ECHO).latest_version.id == VERSION["echo"]
    assert stumble() == 1


@check("stumbling")
async def what_reads_is_tried_again_without_blocking_too():
    stumble(3, method="GET", status=503)
    assert (await replicate.models.async_get(ECHO)).name == "echo"
    assert stumble() == 3


@check("stumbling")
def a_run_outlives_polls_that_do_not_get_through():
    stumble(3, method="GET", status=503)
    said = replicate.run(WORDS_REF, input={"text": "a b", "delay_ms": 700}, wait=False)
    assert spoken(said) == ["a ", "b"]
    assert stumble() == 3


@check("stumbling")
def what_writes_is_sent_once():
    before = made_so_far()
    stumble(1, method="POST", status=503, retry_after="1")
    error = raises(ReplicateError, replicate.predictions.create, version=VERSION["echo"], input={"text": "a"})
    assert (stumble(), error.status, made_so_far()) == (1, 503, before)
    # Whoever sends it again after a lost reply finds it done under the same name.
    named = Client(api_token=TOKEN, base_url=URL, headers={"Idempotency-Key": "python1-once"})
    stumble(1, method="POST", status=502, lose=True)
    raises(ReplicateError, named.predictions.create, version=VERSION["echo"], input={"text": "a"})
    again = named.predictions.create(version=VERSION["echo"], input={"text": "a"})
    again.wait()
    assert (stumble(), again.output, made_so_far()) == (1, heard("a"), before + 1)


if __name__ == "__main__":
    assert os.environ["REPLICATE_BASE_URL"] == URL
    main()
