// What the JavaScript client `replicate` 1.4.0 does with a server, promise by promise. Run by tests/clients.rs.

import assert from "node:assert/strict";
import { File } from "node:buffer";
import { webcrypto } from "node:crypto";
import http from "node:http";
import { createRequire } from "node:module";
import path from "node:path";

const require = createRequire(path.join(process.env.MAQUETTE_CLIENT, "package.json"));
const Replicate = require("replicate");
const { validateWebhook, parseProgressFromLogs } = Replicate;

const { url: URL_, token: TOKEN, versions: VERSION, account: ACCOUNT } = JSON.parse(process.env.MAQUETTE_TEST);
const MODE = process.argv[2];
const [ECHO, WORDS_REF, PICTURE, PICTURES] = ["local/echo", "local/words", "local/picture", "local/pictures"];

// Newlines, a double space, letters beyond ASCII and beyond 16 bits; and what the model `words` makes of it.
const TEXT = "Zwölf  Boxkämpfer\njagen\n\nViktor über den großen 🦊 Teich ";
const WORDS = ["Zwölf ", " ", "Boxkämpfer\njagen\n\nViktor ", "über ", "den ", "großen ", "🦊 ", "Teich "];

const replicate = new Replicate({ baseUrl: `${URL_}/v1` });
const checks = [];
const check = (modes, name, run) => checks.push({ modes, name, run });
const pinned = (model) => `local/${model}:${VERSION[model]}`;

/** The whole output of `echo`. */
const heard = (text, more = {}) => ({
  text, count: 3, ratio: 0.5, loud: false, mood: "calm", tags: [], note: null, key_length: null, ...more,
});

/** The error that a promise is rejected with; of an HTTP error with the body of the reply as `problem`. */
async function rejected(promise) {
  let result;
  try {
    result = await promise;
  } catch (error) {
    // A proxy's error has no problem in it.
    const body = error.message.match(/: (\{.*\})\.$/s);
    if (error.response && body) error.problem = JSON.parse(body[1]);
    return error;
  }
  assert.fail(`${JSON.stringify(result)} came instead of an error`);
}

async function collect(iterable) {
  const items = [];
  for await (const item of iterable) items.push(item);
  return items;
}

/** The bytes of an output's file, which is a URL or, with TLS, an object to read. */
async function bytes(output) {
  const blob = typeof output === "string" ? await (await fetch(output)).blob() : await output.blob();
  return Buffer.from(await blob.arrayBuffer());
}

/** A small HTTP server that takes webhooks. */
async function receiver(use) {
  const got = [];
  let wake = () => {};
  const server = http.createServer((request, response) => {
    const pieces = [];
    request.on("data", (piece) => pieces.push(piece));
    request.on("end", () => {
      got.push({ headers: request.headers, body: Buffer.concat(pieces).toString() });
      response.end();
      wake();
    });
  });
  await new Promise((ready) => server.listen(0, "127.0.0.1", ready));
  const last = async () => {
    for (;;) {
      const ended = got.find((hook) => JSON.parse(hook.body).completed_at);
      if (ended) return ended;
      await new Promise((woken) => (wake = woken));
    }
  };
  try {
    return await use(`http://127.0.0.1:${server.address().port}/hook`, last);
  } finally {
    server.close();
    server.closeAllConnections();
  }
}

check("http https", "the base URL may end in v1 or not", async () => {
  for (const baseUrl of [URL_, `${URL_}/`, `${URL_}/v1`, `${URL_}/v1/`]) {
    const there = new Replicate({ auth: TOKEN, baseUrl });
    assert.deepEqual(await there.run(ECHO, { input: { text: "a" } }), heard("a"));
    const events = await collect(there.stream(WORDS_REF, { input: { text: "a b" } }));
    assert.deepEqual(events.filter((e) => e.event !== "logs").map((e) => e.data), ["a ", "b", "{}"]);
    assert.equal((await there.models.get("local", "echo")).latest_version.id, VERSION.echo);
    assert.ok((await there.predictions.list()).results.length > 0);
    assert.deepEqual((await there.models.search("echo")).results.map((m) => m.name), ["echo"]);
    assert.equal((await there.accounts.current()).username, ACCOUNT);
    assert.equal((await there.files.create(Buffer.from("x"))).size, 1);
  }
});

check("http", "run takes every kind of input", async () => {
  const input = { text: TEXT, count: 7, ratio: -1.25, loud: false, mood: "sad", tags: ["ä", "b"], note: "n" };
  assert.deepEqual(await replicate.run(ECHO, { input }), heard(TEXT, input));
  assert.deepEqual(await replicate.run(ECHO, { input: { text: "a", ratio: 2 } }), heard("a", { ratio: 2 }));
  assert.deepEqual(await replicate.run(ECHO, { input: { text: "a", key: "secret" } }), heard("a", { key_length: 6 }));
  assert.deepEqual(await replicate.run(ECHO, { input: { text: "a", note: null, key: undefined } }), heard("a"));
});

check("http", "run by model and by version", async () => {
  assert.deepEqual(await replicate.run(ECHO, { input: { text: "a" } }), heard("a"));
  assert.deepEqual(await replicate.run(pinned("echo"), { input: { text: "b" } }), heard("b"));
  assert.deepEqual(await replicate.run(pinned("words"), { input: { text: TEXT } }), WORDS);
});

check("http", "run waits, polls, and falls back from one to the other", async () => {
  for (const wait of [{ mode: "block" }, { mode: "block", timeout: 30 }, { mode: "poll", interval: 50 }]) {
    assert.deepEqual(await replicate.run(ECHO, { input: { text: "a" }, wait }), heard("a"));
  }
  // The hold of a second ends while the model speaks: the client polls on, and gets everything.
  const input = { text: "one two three", delay_ms: 800 };
  const seen = [];
  const output = await replicate.run(WORDS_REF, { input, wait: { mode: "block", timeout: 1 } }, (p) => seen.push(p.status));
  assert.deepEqual(output, ["one ", "two ", "three"]);
  assert.deepEqual([seen[0], seen.at(-1)], ["starting", "succeeded"]);
});

check("http https", "stream gives every event with an id and the text exactly", async () => {
  for (const ref of [WORDS_REF, pinned("words")]) {
    const events = await collect(replicate.stream(ref, { input: { text: TEXT, delay_ms: 5 } }));
    const output = events.filter((event) => event.event === "output");
    assert.deepEqual(output.map((event) => event.data), WORDS);
    assert.equal(events.map(String).join(""), TEXT);
    assert.ok(events.every((event) => event.id));
    assert.equal(new Set(output.map((event) => event.id)).size, output.length);
    assert.deepEqual([events.at(-1).event, events.at(-1).data], ["done", "{}"]);
  }
});

check("http", "stream gives words while the model speaks, and ends when it is cancelled", async () => {
  const prediction = await replicate.predictions.create({ model: WORDS_REF, input: { text: "now later", delay_ms: 20000 } });
  let now;
  do {
    now = await replicate.predictions.get(prediction.id);
  } while (!now.output?.length);
  assert.deepEqual([now.status, now.output], ["processing", ["now "]]);
  assert.equal((await replicate.predictions.cancel(prediction.id)).status, "canceled");
  // The stream goes without a token: its URL is a capability.
  const response = await fetch(prediction.urls.stream, { headers: { Accept: "text/event-stream" } });
  assert.match(await response.text(), /event: output\nid: \S+\ndata: now \n\n.*event: done\n.*"canceled"/s);
  const without = prediction.urls.stream.replace(/signature=[0-9a-f]{2}/, "signature=00");
  assert.equal((await fetch(without)).status, 404);
});

check("http", "stream throws what the model says when it fails", async () => {
  const got = [];
  const read = async () => {
    for await (const event of replicate.stream(WORDS_REF, { input: { text: "a b", fail_after: 1 } })) got.push(event.data);
  };
  const error = await rejected(read());
  assert.deepEqual(JSON.parse(error.message), { detail: "the voice failed after 1 words" });
});

check("http", "a prediction is created, looked at, waited for and listed", async () => {
  const input = { text: "a b", delay_ms: 300 };
  const created = await replicate.predictions.create({ version: VERSION.words, input });
  assert.deepEqual([created.status, created.model, created.version], ["starting", WORDS_REF, VERSION.words]);
  assert.deepEqual(created.input, input);
  const ended = await replicate.wait(created, { interval: 50 });
  assert.deepEqual([ended.status, ended.output, ended.error], ["succeeded", ["a ", "b"], null]);
  assert.ok(ended.completed_at >= ended.started_at && ended.started_at >= ended.created_at);
  assert.ok(ended.metrics.predict_time > 0.3);
  assert.deepEqual(parseProgressFromLogs(ended), { percentage: 1, current: 2, total: 2 });
  const [newest] = (await replicate.predictions.list()).results;
  assert.deepEqual([newest.id, newest.status, newest.output], [created.id, "succeeded", ["a ", "b"]]);
});

check("http", "create waits when it is told to", async () => {
  for (const wait of [true, 1, 30]) {
    for (const which of [{ version: VERSION.echo }, { model: ECHO }]) {
      const made = await replicate.predictions.create({ ...which, input: { text: "a" }, wait });
      assert.deepEqual([made.status, made.output], ["succeeded", heard("a")]);
    }
  }
});

check("http", "a running prediction is cancelled", async () => {
  const made = await replicate.predictions.create({ version: VERSION.words, input: { text: "a b", delay_ms: 20000 } });
  assert.equal((await replicate.predictions.cancel(made.id)).status, "canceled");
  assert.equal((await replicate.wait(made)).status, "canceled");
});

check("http", "an aborted run is cancelled, and one that is held ends with its connection", async () => {
  const input = { text: "now later", delay_ms: 20000 };
  // While it polls, `run` cancels.
  const polled = new AbortController();
  const seen = [];
  const output = await replicate.run(WORDS_REF, { input, wait: { mode: "poll", interval: 50 }, signal: polled.signal }, (p) => {
    seen.push(p);
    if (p.output?.length) polled.abort();
  });
  assert.deepEqual(output, ["now "]);
  assert.equal((await replicate.predictions.get(seen[0].id)).status, "canceled");
  // While the server holds it, the client can only hang up: nobody waits for it any more, so it ends.
  const held = new AbortController();
  const promise = rejected(replicate.predictions.create({ version: VERSION.words, input, wait: true, signal: held.signal }));
  const running = async () => (await replicate.predictions.list()).results.find((p) => p.status === "processing");
  let found;
  while (!(found = await running()));
  held.abort();
  assert.equal((await promise).name, "AbortError");
  assert.equal((await replicate.wait(found, { interval: 50 })).status, "canceled");
});

check("http", "lists are paged to their end", async () => {
  const made = [];
  for (let i = 0; i < 101; i += 1) {
    made.push((await replicate.predictions.create({ version: VERSION.echo, input: { text: `${i}` } })).id);
  }
  const pages = await collect(replicate.paginate(replicate.predictions.list));
  assert.ok(pages.length >= 2 && pages.slice(0, -1).every((page) => page.length === 100));
  const ids = pages.flat().map((prediction) => prediction.id);
  assert.equal(new Set(ids).size, ids.length);
  assert.ok(made.every((id) => ids.includes(id)));
});

check("http", "models are listed, got and searched", async () => {
  const names = (await collect(replicate.paginate(replicate.models.list))).flat().map((m) => `${m.owner}/${m.name}`);
  for (const model of [ECHO, WORDS_REF, PICTURE, PICTURES]) assert.ok(names.includes(model), model);
  const model = await replicate.models.get("local", "echo");
  assert.deepEqual([model.owner, model.name, model.visibility], ["local", "echo", "public"]);
  assert.deepEqual(model.default_example.output, heard("hello"));
  assert.deepEqual((await replicate.models.search("word by word")).results.map((m) => m.name), ["words"]);
  assert.deepEqual((await replicate.models.search("nothing of the kind")).results, []);
});

check("http", "models are created, and versions listed and got", async () => {
  const options = { visibility: "private", hardware: "cpu", description: "Mine." };
  const made = await replicate.models.create("local", "mine", options);
  assert.deepEqual([made.name, made.visibility, made.description, made.latest_version], ["mine", "private", "Mine.", null]);
  assert.equal((await rejected(replicate.models.create("local", "mine", options))).response.status, 409);
  const { results } = await replicate.models.versions.list("local", "echo");
  assert.deepEqual(results.map((version) => version.id), [VERSION.echo]);
  const version = await replicate.models.versions.get("local", "echo", VERSION.echo);
  assert.deepEqual(version.openapi_schema.components.schemas.Input.required, ["text"]);
});

check("http", "deployments are made, changed, used and deleted", async () => {
  const config = { name: "mine", model: ECHO, version: VERSION.echo, hardware: "cpu", min_instances: 0, max_instances: 1 };
  const made = await replicate.deployments.create(config);
  assert.deepEqual([made.owner, made.name, made.current_release.number], [ACCOUNT, "mine", 1]);
  const changed = await replicate.deployments.update(ACCOUNT, "mine", { max_instances: 2 });
  assert.deepEqual([changed.current_release.number, changed.current_release.configuration.max_instances], [2, 2]);
  assert.deepEqual((await replicate.deployments.list()).results.map((d) => d.name), ["mine"]);
  assert.equal((await replicate.deployments.get(ACCOUNT, "mine")).current_release.version, VERSION.echo);
  const created = await replicate.deployments.predictions.create(ACCOUNT, "mine", { input: { text: "a" } });
  assert.deepEqual((await replicate.wait(created, { interval: 50 })).output, heard("a"));
  const held = await replicate.deployments.predictions.create(ACCOUNT, "mine", { input: { text: "b" }, wait: true });
  assert.deepEqual([held.status, held.output, held.deployment], ["succeeded", heard("b"), `${ACCOUNT}/mine`]);
  assert.equal(await replicate.deployments.delete(ACCOUNT, "mine"), true);
  assert.equal((await rejected(replicate.deployments.get(ACCOUNT, "mine"))).response.status, 404);
});

check("http https", "files are sent, looked at, listed, downloaded and deleted", async () => {
  const named = await replicate.files.create(new File(["abc"], "grün.txt", { type: "text/plain" }), { key: { n: 1 } });
  assert.deepEqual([named.name, named.content_type, named.size], ["grün.txt", "text/plain", 3]);
  assert.deepEqual(named.metadata, { key: { n: 1 } });
  const blob = await replicate.files.create(new Blob(["abcd"], { type: "image/png" }));
  assert.deepEqual([blob.content_type, blob.size, blob.metadata], ["image/png", 4, {}]);
  const buffer = await replicate.files.create(Buffer.from("abcde"));
  assert.deepEqual([buffer.content_type, buffer.size], ["application/octet-stream", 5]);
  assert.equal((await replicate.files.get(named.id)).checksums.sha256, named.checksums.sha256);
  const listed = (await replicate.files.list()).results.map((file) => file.id);
  for (const file of [named, blob, buffer]) assert.ok(listed.includes(file.id));
  assert.equal(await (await fetch(blob.urls.download)).text(), "abcd");
  assert.equal(await replicate.files.delete(named.id), true);
  assert.equal((await rejected(replicate.files.get(named.id))).response.status, 404);
});

check("http", "a file input is a Blob, a File, a Buffer, a URL or a data URI", async () => {
  const { urls } = await replicate.files.create(Buffer.from("abc"));
  const inputs = [
    new Blob(["abc"], { type: "image/png" }), new File(["abc"], "a.png"), Buffer.from("abc"), urls.get,
    "data:image/png;base64,YWJj",
  ];
  for (const image of inputs) {
    const output = await replicate.run(PICTURE, { input: { image } });
    assert.equal((await bytes(output)).toString(), "cba");
    // An output may be an input: turned twice, it is what it was.
    assert.equal((await bytes(await replicate.run(PICTURE, { input: { image: output } }))).toString(), "abc");
  }
  const upload = new Replicate({ baseUrl: URL_, fileEncodingStrategy: "upload" });
  const output = await upload.run(PICTURE, { input: { image: inputs[0] } });
  assert.equal((await fetch(output)).headers.get("content-type"), "image/png");
});

check("http", "the client's own token is never kept, even where 1.4.0 sends it as an input", async () => {
  // Its strategy `data-uri` posts the client itself as the input; the server refuses that, and echoes nothing.
  const broken = new Replicate({ baseUrl: URL_, fileEncodingStrategy: "data-uri" });
  const error = await rejected(broken.run(ECHO, { input: { text: "a" } }));
  assert.equal(error.response.status, 422);
  assert.ok(!error.message.includes(TOKEN));
  const made = await replicate.predictions.create({ model: ECHO, input: { text: `my token is ${TOKEN}` }, wait: true });
  assert.ok(!JSON.stringify((await replicate.predictions.get(made.id)).input).includes(TOKEN));
});

check("http", "without TLS a file output is its URL", async () => {
  const output = await replicate.run(PICTURE, { input: { image: Buffer.from("abc") } });
  assert.ok(typeof output === "string" && output.startsWith(`${URL_}/`), output);
  const outputs = await replicate.run(PICTURES, { input: { images: [Buffer.from("abc"), Buffer.from("de")] } });
  assert.deepEqual(outputs.map((one) => typeof one), ["string", "string"]);
});

check("https", "with TLS a file output is an object to read", async () => {
  const output = await replicate.run(PICTURE, { input: { image: new Blob(["abc"], { type: "image/png" }) } });
  assert.ok(output instanceof ReadableStream);
  assert.ok(output.url() instanceof URL && output.url().href === String(output));
  assert.ok(String(output).startsWith(`${URL_}/`));
  const blob = await output.blob();
  assert.deepEqual([blob.type, await blob.text()], ["image/png", "cba"]);
  const large = Buffer.alloc(3 << 20, "0123456789");
  const turned = await replicate.run(PICTURE, { input: { image: large } });
  assert.ok((await bytes(turned)).equals(Buffer.from(large).reverse()));
});

check("https", "with TLS lists of files are objects too, unless one asks for URLs", async () => {
  const input = { images: [Buffer.from("abc"), "data:text/plain;base64,ZGU="] };
  const outputs = await replicate.run(PICTURES, { input });
  assert.deepEqual((await Promise.all(outputs.map(bytes))).map(String), ["cba", "ed"]);
  const plain = new Replicate({ baseUrl: URL_, useFileOutput: false });
  const urls = await plain.run(PICTURES, { input });
  assert.deepEqual(urls.map((url) => typeof url), ["string", "string"]);
  assert.deepEqual((await Promise.all(urls.map(bytes))).map(String), ["cba", "ed"]);
});

check("http", "hardware, account and collections are there", async () => {
  assert.deepEqual(await replicate.hardware.list(), [{ sku: "cpu", name: "CPU" }]);
  const account = await replicate.accounts.current();
  assert.deepEqual([account.type, account.username], ["user", ACCOUNT]);
  assert.deepEqual((await replicate.collections.list()).results.map((c) => c.slug), ["favourites"]);
  const collection = await replicate.collections.get("favourites");
  assert.deepEqual(collection.models.map((model) => model.name), ["words", "echo"]);
});

check("http", "trainings are none, and refused clearly", async () => {
  assert.deepEqual((await replicate.trainings.list()).results, []);
  const create = (destination) => replicate.trainings.create("local", "echo", VERSION.echo, { destination, input: {} });
  const missing = await rejected(create("local/nowhere"));
  assert.deepEqual([missing.response.status, missing.problem.detail], [404, "The specified training destination does not exist"]);
  const refused = await rejected(create("local/echo"));
  assert.equal(refused.response.status, 422);
  assert.match(refused.problem.detail, /cannot be trained/);
  assert.equal((await rejected(replicate.trainings.get("none"))).response.status, 404);
  assert.equal((await rejected(replicate.trainings.cancel("none"))).response.status, 404);
});

check("http", "webhooks come signed and validate", async () => {
  const { key } = await replicate.webhooks.default.secret.get();
  await receiver(async (webhook, last) => {
    const options = { version: VERSION.echo, input: { text: TEXT }, webhook, webhook_events_filter: ["completed"] };
    const made = await replicate.predictions.create(options);
    const { headers, body } = await last();
    const told = JSON.parse(body);
    assert.deepEqual([told.id, told.status, told.output], [made.id, "succeeded", heard(TEXT)]);
    assert.equal(await validateWebhook({ headers, body }, key, webcrypto), true);
    const request = new Request("http://hook", { method: "POST", headers: new Headers(headers), body });
    assert.equal(await validateWebhook(request, key, webcrypto), true);
    assert.equal(await validateWebhook({ headers, body: `${body} ` }, key, webcrypto), false);
  });
});

check("http", "errors say what is wrong", async () => {
  const unknown = await rejected(new Replicate({ baseUrl: URL_, auth: "nonsense" }).accounts.current());
  assert.deepEqual([unknown.response.status, unknown.problem.detail], [401, "You did not pass a valid authentication token"]);
  assert.equal((await rejected(replicate.models.get("local", "none"))).response.status, 404);
  assert.equal((await rejected(replicate.run("local/none", { input: {} }))).response.status, 404);
  assert.equal((await rejected(replicate.predictions.get("none"))).response.status, 404);
  const version = await rejected(replicate.run(`local/echo:${"0".repeat(64)}`, { input: { text: "a" } }));
  assert.deepEqual([version.response.status, version.problem.title], [422, "Invalid version or not permitted"]);
  const fields = await rejected(replicate.run(ECHO, { input: { text: "a", count: 11, mood: "angry" } }));
  assert.deepEqual(fields.problem.invalid_fields.map((field) => field.field), ["input.count", "input.mood"]);
});

check("http", "a model that fails throws", async () => {
  const input = { text: "a b c", fail_after: 1 };
  for (const wait of [{ mode: "block" }, { mode: "poll", interval: 50 }]) {
    const error = await rejected(replicate.run(WORDS_REF, { input, wait }));
    assert.equal(error.message, "Prediction failed: the voice failed after 1 words");
  }
});

check("full", "a full server is tried again, and nothing is made twice", async () => {
  const slow = { version: VERSION.words, input: { text: "a b", delay_ms: 20000 } };
  const held = [await replicate.predictions.create(slow), await replicate.predictions.create(slow)];
  const all = async () => (await collect(replicate.paginate(replicate.predictions.list))).flat().length;
  const before = await all();
  const seen = [];
  const patient = new Replicate({
    baseUrl: URL_,
    fetch: async (url, init) => {
      const response = await fetch(url, init);
      seen.push(response.status);
      // Room is made before the client comes back.
      if (response.status === 429) await Promise.all(held.map(({ id }) => replicate.predictions.cancel(id)));
      return response;
    },
  });
  const made = await patient.predictions.create({ version: VERSION.echo, input: { text: "a" } });
  assert.deepEqual(seen, [429, 201]);
  assert.deepEqual((await replicate.wait(made, { interval: 50 })).output, heard("a"));
  assert.equal(await all(), before + 1);
});

check("full", "whoever is refused is told when to come back", async () => {
  const slow = { version: VERSION.words, input: { text: "a b", delay_ms: 20000 } };
  const held = [await replicate.predictions.create(slow), await replicate.predictions.create(slow)];
  const error = await rejected(replicate.predictions.create(slow));
  assert.equal(error.response.status, 429);
  assert.equal(String(error.problem.retry_after), error.response.headers.get("retry-after"));
  for (const { id } of held) await replicate.predictions.cancel(id);
});

/** Makes the proxy in front of the server fail so often; how often it has failed since the last time. See stumbling_proxy.py. */
async function stumble(times = 0, plan = {}) {
  const reply = await fetch(`${URL_}/stumble`, { method: "POST", body: JSON.stringify({ times, ...plan }) });
  return (await reply.json()).stumbled;
}

const madeSoFar = async () => (await collect(replicate.paginate(replicate.predictions.list))).flat().length;

check("stumbling", "what reads is tried again until it gets through", async () => {
  for (const status of [429, 500, 502, 503, 504]) {
    await stumble(3, { method: "GET", status, retry_after: "1" });
    assert.equal((await replicate.models.get("local", "echo")).latest_version.id, VERSION.echo);
    assert.equal(await stumble(), 3);
  }
});

check("stumbling", "a run outlives polls that do not get through", async () => {
  await stumble(4, { method: "GET", status: 503 });
  const input = { text: "a b", delay_ms: 700 };
  assert.deepEqual(await replicate.run(WORDS_REF, { input, wait: { mode: "poll", interval: 50 } }), ["a ", "b"]);
  assert.equal(await stumble(), 4);
});

check("stumbling", "what is refused with 429 is sent again and done once, with 503 it is not", async () => {
  const before = await madeSoFar();
  await stumble(3, { method: "POST", status: 429, retry_after: "1" });
  const made = await replicate.predictions.create({ version: VERSION.echo, input: { text: "a" } });
  assert.deepEqual((await replicate.wait(made, { interval: 50 })).output, heard("a"));
  assert.deepEqual([await stumble(), await madeSoFar()], [3, before + 1]);
  await stumble(1, { method: "POST", status: 503, retry_after: "1" });
  const refused = await rejected(replicate.predictions.create({ version: VERSION.echo, input: { text: "a" } }));
  assert.deepEqual([await stumble(), refused.response.status, await madeSoFar()], [1, 503, before + 1]);
});

let failed = 0;
let running;
// What hangs says where.
setTimeout(() => (console.log(`FAILED ${running} takes too long`), process.exit(1)), 300_000).unref();
for (const { modes, name, run } of checks.filter(({ modes }) => modes.split(" ").includes(MODE))) {
  running = name;
  try {
    await run();
    console.log(`ok ${name}`);
  } catch (error) {
    failed += 1;
    console.log(`FAILED ${name}\n${error.stack}`);
  }
}
process.exit(failed ? 1 : 0);
