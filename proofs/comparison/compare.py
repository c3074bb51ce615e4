"""What people would pick instead of Cloze, on the same work and machine.

    python3.11 -m venv peers && peers/bin/pip install -r requirements.txt
    peers/bin/python compare.py tfidf train.csv test.csv --label=team
    peers/bin/python compare.py fasttext train.csv test.csv --label=team
    peers/bin/python compare.py spacy train.csv test.csv --label=team
    peers/bin/python compare.py bert        # a training step of masked-LM
    peers/bin/python compare.py modernbert

Prints one line of JSON. Whatever is chosen is chosen on a tenth of the training
file; the test file is read once, at the end. Every method has a process of its
own, so that its memory is its own.
"""

import argparse
import csv
import json
import os
import pathlib
import random
import resource
import statistics
import tempfile
import time


def read(path, text, label):
    """Texts and labels of a csv file, in one line each."""
    with open(path, newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[label]]
    return [" ".join(r[text].split()) for r in rows], [r[label] for r in rows]


def accuracy(answers, labels):
    """The share of the answers that are right."""
    return sum(map(str.__eq__, answers, labels)) / len(labels)


def size_on_disk(path):
    """Bytes of a file, or of all files of a folder."""
    files = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def tfidf(train, chosen, folder):
    """TF-IDF of words and pairs with logistic regression, C chosen."""
    import joblib
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    vectorizer = TfidfVectorizer(
        ngram_range=(1, 2), min_df=2, sublinear_tf=True
    )
    features = vectorizer.fit_transform(train[0])
    candidates = [
        LogisticRegression(C=c, max_iter=1_000).fit(features, train[1])
        for c in (1, 3, 10, 30, 100)
    ]

    def answer(model, texts):
        return [*map(str, model.predict(vectorizer.transform(texts)))]

    best = max(
        candidates,
        key=lambda model: accuracy(answer(model, chosen[0]), chosen[1]),
    )
    joblib.dump((vectorizer, best), folder / "model.joblib")
    return lambda texts: answer(best, texts)


def fasttext(train, chosen, folder):
    """fastText with pairs of words; its own search, for five minutes."""
    import fasttext

    names = sorted({*train[1]})
    for name, (texts, labels) in (("train", train), ("chosen", chosen)):
        lines = (
            f"__label__{names.index(label)} {text.lower()}\n"
            for text, label in zip(texts, labels, strict=True)
            if label in names
        )
        (folder / name).write_text("".join(lines))
    model = fasttext.train_supervised(
        str(folder / "train"),
        autotuneValidationFile=str(folder / "chosen"),
        autotuneDuration=300,
        thread=os.cpu_count(),
        verbose=0,
    )
    for name in ("train", "chosen"):
        (folder / name).unlink()
    model.save_model(str(folder / "model.bin"))

    def answer(texts):
        found, _ = model.predict([text.lower() for text in texts])
        return [names[int(one[0].removeprefix("__label__"))] for one in found]

    return answer


def spacy(train, chosen, folder):
    """SpaCy's textcat, bag of words and a network; the best of ten epochs."""
    import spacy
    from spacy.training import Example

    language = spacy.blank("en")
    textcat = language.add_pipe("textcat")
    names = sorted({*train[1]})
    for name in names:
        textcat.add_label(name)

    def examples(texts, labels):
        for text, label in zip(texts, labels, strict=True):
            cats = {name: float(name == label) for name in names}
            yield Example.from_dict(language.make_doc(text), {"cats": cats})

    def answer(texts):
        return [
            max(doc.cats, key=doc.cats.get)
            for doc in language.pipe(texts, batch_size=256)
        ]

    known = [*examples(*train)]
    optimizer = language.initialize(lambda: known[:1_000])
    best = -1.0
    for _ in range(10):
        random.shuffle(known)
        for batch in spacy.util.minibatch(known, 64):
            language.update(batch, sgd=optimizer, drop=0.2)
        if (found := accuracy(answer(chosen[0]), chosen[1])) > best:
            best = found
            language.to_disk(folder / "model")
    language.from_disk(folder / "model")
    return answer


def classify(method, arguments):
    """Trains on nine tenths, chooses on one, tests once."""
    texts, labels = read(arguments.train, arguments.text, arguments.label)
    order = [*range(len(texts))]
    random.Random(0).shuffle(order)
    start = time.perf_counter()
    train, chosen = (
        ([texts[i] for i in part], [labels[i] for i in part])
        for part in (order[len(order) // 10 :], order[: len(order) // 10])
    )
    with tempfile.TemporaryDirectory() as folder:
        answer = method(train, chosen, pathlib.Path(folder))
        seconds = time.perf_counter() - start
        size = size_on_disk(pathlib.Path(folder))
    test, truth = read(arguments.test, arguments.text, arguments.label)
    start = time.perf_counter()
    found = accuracy(answer(test), truth)
    return {
        "test_documents": len(test),
        "accuracy": round(found, 4),
        "minutes": round(seconds / 60, 2),
        "megabytes_on_disk": round(size / 1e6, 3),
        "texts_per_second": round(len(test) / (time.perf_counter() - start)),
    }


def step(name):
    """A training step of masked-LM with 32 rows of 256, as in imdb_notebook."""
    import torch
    import transformers

    torch.manual_seed(0)
    sizes = dict(
        vocab_size=30_000,
        hidden_size=128,
        intermediate_size=128,
        num_attention_heads=8,
        num_hidden_layers=1,
        max_position_embeddings=256,
    )
    kinds = {"bert": ("BertConfig", "BertForMaskedLM")}
    kinds["modernbert"] = ("ModernBertConfig", "ModernBertForMaskedLM")
    config, model = (getattr(transformers, kind) for kind in kinds[name])
    model = model(config(**sizes, pad_token_id=0)).train()
    optimizer = torch.optim.AdamW(model.parameters())
    tokens = torch.randint(3, 30_000, (32, 256))
    labels = tokens.where(torch.rand(tokens.shape) < 0.15, -100)
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        model(input_ids=tokens, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - start)
    return {"milliseconds": round(1_000 * statistics.median(seconds[2:]))}


def main():
    """Runs one method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    methods = {"tfidf": tfidf, "fasttext": fasttext, "spacy": spacy}
    parser.add_argument("what", choices=[*methods, "bert", "modernbert"])
    parser.add_argument("train", nargs="?")
    parser.add_argument("test", nargs="?")
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    arguments = parser.parse_args()
    what = arguments.what
    if what in methods and not arguments.test:
        parser.error(f"{what} needs a csv file to train on and one to test on")
    random.seed(0)
    if what in methods:
        result = classify(methods[what], arguments)
    else:
        result = step(what)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result["peak_megabytes"] = round(peak / 1_024)
    print(json.dumps({"what": what, **result}))


if __name__ == "__main__":
    main()
