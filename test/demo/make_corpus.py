#!/usr/bin/python3
"""Makes corpus.sql.xz: the PostgreSQL manual as passages with vectors, and the vectors of its words.

usage: make_corpus.py [--html DIR] [--output FILE] [--show]

Needs the HTML manual (Debian: postgresql-doc-15), python3-sklearn, and psql with the PG... variables set for a running
server: words are normalised by to_tsvector('english', ...), so that plain SQL finds exactly the same terms in a question.
The README beside this script explains the method.  It ends by asking the questions in questions.tsv and printing how many
find a right page; --show prints the answers, too.
"""

import argparse
import collections
import lzma
import os
import re
import subprocess
import textwrap
import xml.etree.ElementTree as ElementTree

# One thread adds in one order: the same input gives the same file.
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
import scipy.sparse
from sklearn.utils.extmath import randomized_svd

HERE = os.path.dirname(os.path.abspath(__file__))
XHTML = "{http://www.w3.org/1999/xhtml}"

# Lists of names, history and pages that only redirect: nobody's answer.
SKIPPED_PAGES = re.compile(
    r"^(index|bookindex|legalnotice|biblio|release.*|sql-keywords-appendix|features-sql-standard|"
    r"unsupported-features-sql-standard|appendix-obsolete|sourcerepo|git|docguide.*|acronyms|"
    r"recovery-config|default-roles|pgxlogdump|external-.*|contrib-prog.*)$")
SECTIONS = {"book", "part", "preface", "chapter", "appendix", "reference", "refentry", "sect1", "sect2", "sect3", "sect4",
            "sect5", "simplesect", "refsect1", "refsect2", "refsect3", "refsynopsisdiv", "refnamediv"}
SKIPPED_CLASSES = {"navheader", "navfooter", "toc", "titlepage", "indexterm", "footnotes", "colgroup"}
GENERIC_TITLES = {"Description", "Parameters", "Notes", "Examples", "Outputs", "Options", "Compatibility", "See Also",
                  "Synopsis", "Arguments", "Return Value", "Usage", "Overview", "Introduction"}

PASSAGE_FULL = 450      # a passage this long is closed at the next paragraph
PASSAGE_MAX = 1500      # and never grows beyond this by merging
PASSAGE_MIN = 40        # what is left alone and shorter than this is dropped
PASSAGE_TINY = 130      # shorter ones join their neighbour
ENTRY_ALONE = 140       # a described setting, option or function this long is a passage of its own

DIMENSIONS = 256
MIN_PASSAGES = 2        # a term occurs in at least this many passages
TITLE_WEIGHT = 3.5      # one occurrence in the passage's own title counts like so many in its text
PATH_WEIGHT = 1.0       # in the titles above it
GENERIC_WEIGHT = 0.3    # in a title such as "Description"
INDEX_WEIGHT = 3.0      # in an entry of the book index, divided by the root of the passages the entry stands for
INDEX_MAX = 5.0
INDEX_SHARE = 60        # entries and sentences that stand for more passages than this say nothing
HINT_SHARE = 40
K1, B = 1.6, 0.7        # saturation and length normalisation as in BM25
STEPS_OF_TRAINING = 540
BATCH = 512
TEMPERATURE = 0.07
DROPPED_WORDS = 0.3     # of a question, so that no single word decides
RATE = 0.05
STEPS = 192             # a unit vector's length in the integers of the file


def plain_title(title):
    """A heading without its number: 'Chapter 14. Performance Tips' and '14.4.2. Use COPY' lose theirs."""
    title = re.sub(r"\s+", " ", title.replace("\u200b", "")).strip()
    title = re.sub(r"^(Chapter|Appendix|Part)\s+\w+\.\s+", "", title)
    return re.sub(r"^(?:[A-Z]|\d+)(?:\.\d+)*\.\s+", "", title)


def flat_text(element, keep_lines=False, mark_links=False):
    """The text below an element; white space is folded unless keep_lines.  mark_links puts targets between \\x01 and \\x02."""
    parts = []

    def collect(e):
        classes = (e.get("class") or "").split()
        if "indexterm" in classes or e.tag == XHTML + "sup" and "footnote" in classes:
            return
        if mark_links and e.tag == XHTML + "a" and ".html" in (e.get("href") or "") and "://" not in e.get("href"):
            parts.append(f"\x01{e.get('href')}\x02")
        parts.append(e.text or "")
        for child in e:
            collect(child)
            parts.append(child.tail or "")

    collect(element)
    text = "".join(parts).replace("\u200b", "")
    if keep_lines:
        return "\n".join(line.rstrip() for line in text.strip("\n").split("\n"))
    return re.sub(r"\s+", " ", text).strip()


class Page:
    """One HTML file: where it stands in the manual, and its blocks of text in order."""

    def __init__(self, directory, name):
        self.name = name
        self.root = ElementTree.parse(os.path.join(directory, name + ".html")).getroot()
        self.title = plain_title(flat_text(self.root.find(f"{XHTML}head/{XHTML}title")))
        self.up = None
        for link in self.root.iter(XHTML + "a"):
            if link.get("accesskey") == "u":
                self.up = link.get("href").split("#")[0][:-len(".html")]
                break

    def blocks(self):
        """Yields (titles, anchors, kind, term, text): headings and ids from the page's own down, and one block of text.
        kind is 'section', 'p', 'pre', 'item', 'entry' (a described term) or 'more' (of an entry)."""
        yield from self._walk(self.root.find(XHTML + "body"), [], [])

    def references(self):
        """Yields (href, sentence) for every link in running text, with the sentence it stands in."""
        for block in self.root.iter():
            if block.tag not in (XHTML + "p", XHTML + "li"):
                continue
            marked = flat_text(block, mark_links=True)
            if "\x01" not in marked:
                continue
            for sentence in re.split(r"(?<=[.!?:;])\s+", marked):
                for href in re.findall("\x01(.*?)\x02", sentence):
                    yield href, re.sub("\x01.*?\x02", "", sentence)

    def _walk(self, element, titles, anchors):
        tag = element.tag.replace(XHTML, "")
        classes = set((element.get("class") or "").split())
        if classes & SKIPPED_CLASSES:
            return
        if tag == "div" and classes & SECTIONS:
            title = self._own_title(element, classes)
            anchors = anchors + [element.get("id")] if element.get("id") else anchors
            if title and not (titles and titles[-1] == title):
                titles = titles + [title]
            yield titles, anchors, "section", None, ""
        if tag in ("h1", "h2", "h3", "h4", "h5", "h6", "hr", "br"):
            return
        if tag == "p":
            if "title" not in classes:
                yield titles, anchors, "p", None, flat_text(element)
            return
        if tag == "pre":
            yield titles, anchors, "pre", None, flat_text(element, keep_lines=True)
            return
        if tag == "dl" and ("variablelist" in classes or element.find(XHTML + "dd") is not None):
            yield from self._definitions(element, titles, anchors)
            return
        if tag == "li":
            text, rest = self._lead(element)
            if text:
                yield titles, anchors, "item", None, "• " + text
            for child in rest:
                yield from self._walk(child, titles, anchors)
            return
        if tag == "tr":
            yield from self._row(element, titles, anchors)
            return
        if (element.text or "").strip() and tag in ("div", "dd", "td"):
            yield titles, anchors, "p", None, re.sub(r"\s+", " ", element.text).strip()
        for child in element:
            yield from self._walk(child, titles, anchors)

    @staticmethod
    def _own_title(element, classes):
        if "refnamediv" in classes or "refsynopsisdiv" in classes:
            return None
        if "refentry" in classes:
            for span in element.iter(XHTML + "span"):
                if span.get("class") == "refentrytitle":
                    return plain_title(flat_text(span))
        for heading in element.iter():
            if re.fullmatch(r"h[1-6]", heading.tag.replace(XHTML, "")):
                return plain_title(flat_text(heading))
        return None

    @staticmethod
    def _lead(element):
        """The text of a list item up to its first block other than a paragraph, and the blocks after it."""
        lead, children = [element.text or ""], list(element)
        for i, child in enumerate(children):
            tag = child.tag.replace(XHTML, "")
            if tag in ("pre", "div", "dl", "ul", "ol", "table") or tag == "p" and "".join(lead).strip():
                return re.sub(r"\s+", " ", "".join(lead)).strip(), children[i:]
            lead.append(flat_text(child))
            lead.append(child.tail or "")
        return re.sub(r"\s+", " ", "".join(lead)).strip(), []

    def _definitions(self, element, titles, anchors):
        terms, here = [], anchors
        for child in element:
            if child.tag == XHTML + "dt":
                terms.append(flat_text(child))
                here = anchors + [child.get("id")] if child.get("id") else here
            elif child.tag == XHTML + "dd":
                term = ", ".join(terms)
                first = True
                for _, _, kind, inner, text in self._walk(child, titles, here):
                    if kind == "section" or not text:
                        continue
                    if first:
                        yield titles, here, "entry", term, text
                        first = False
                    elif kind == "entry":
                        yield titles, here, "item", None, f"• {inner}: {text}"
                    else:
                        yield titles, here, "more" if kind == "p" else kind, None, text
                if first and term:
                    yield titles, here, "entry", term, term
                terms, here = [], anchors

    def _row(self, element, titles, anchors):
        cells = [c for c in element if c.tag in (XHTML + "td", XHTML + "th")]
        if not cells or all(c.tag == XHTML + "th" for c in cells):
            return
        classes = cells[0].get("class") or ""
        if "func_table_entry" in classes or "catalog_table_entry" in classes:
            lines = [flat_text(p, keep_lines=False) for p in cells[0] if p.tag == XHTML + "p"] or [flat_text(cells[0])]
            name = next((flat_text(c) for c in cells[0].iter(XHTML + "code")
                         if c.get("class") in ("function", "structfield")), None)
            kind = "entry" if "func" in classes else "item"
            yield titles, anchors, kind, name, ("" if kind == "entry" else "• ") + "\n".join(l for l in lines if l)
            return
        yield titles, anchors, "item", None, "• " + " | ".join(t for t in map(flat_text, cells) if t)


def read_manual(directory):
    """The passages of the manual, in its order: dicts of part, chapter, titles, page, anchor, body."""
    names = sorted(f[:-len(".html")] for f in os.listdir(directory) if f.endswith(".html"))
    pages = {name: Page(directory, name) for name in names}
    passages = []
    for name in reading_order(directory, pages):
        if SKIPPED_PAGES.match(name):
            continue
        page = pages[name]
        path, up = [], page.up
        while up and up != "index":
            path.insert(0, pages[up].title)
            up = pages[up].up
        for passage in cut(page):
            if passage["titles"][-1:] == ["See Also"] or len(passage["body"]) < PASSAGE_MIN:
                continue
            titles = path + [t for t in passage["titles"] if t not in path]
            passage["part"] = titles[0]
            passage["chapter"] = titles[1] if len(titles) > 1 else titles[0]
            passage["titles"] = titles
            passages.append(passage)
    members = collections.defaultdict(list)
    for passage in passages:
        for anchor in {"", *passage["anchors"]}:
            members[passage["page"][:-len(".html")], anchor].append(passage)
        passage["hints"] = []
    for place, phrases in sorted(hints(directory, pages).items()):
        for passage in members.get(place, []):
            passage["hints"] += [(origin, phrase, len(members[place])) for origin, phrase in phrases]
    return passages


def hints(directory, pages):
    """What the rest of the manual says about a place: {(page, id or ""): [(origin, phrase)]}.  The origin is 'index' for
    the book index (with its "see" entries, which are synonyms) or 'sentence' for a sentence that refers to the place."""
    found = collections.defaultdict(list)

    def add(href, origin, phrase):
        page, _, anchor = href.partition("#")
        found[page[:-len(".html")], anchor].append((origin, phrase))

    links, same_as = collections.defaultdict(list), []

    def entries(dl, above):
        key = None
        for child in dl:
            if child.tag == XHTML + "dt":
                key, phrase = child.get("id"), (child.text or "").strip().rstrip(",").replace("(see", "").replace("(see also", "")
                phrase = above + [phrase.strip()]
                for a in child.iter(XHTML + "a"):
                    href = a.get("href") or ""
                    if href.startswith("#"):
                        same_as.append((" ".join(phrase), href[1:]))
                    elif href:
                        add(href, "index", " ".join(phrase))
                        links[key].append(href)
            else:
                for inner in child.iter(XHTML + "dl"):
                    entries(inner, phrase[:1])
                    break

    index = pages["bookindex"].root
    for division in index.iter(XHTML + "div"):
        if division.get("class") == "indexdiv":
            entries(division.find(XHTML + "dl"), [])
    for phrase, key in same_as:
        for href in links.get(key, []):
            add(href, "index", phrase)
    for name, page in pages.items():
        if not SKIPPED_PAGES.match(name):
            for href, sentence in page.references():
                if not href.startswith(name + "."):
                    add(href, "sentence", sentence)
    return found


def reading_order(directory, pages):
    """Page names as the 'Next' links give them; what they miss follows by name."""
    order, seen, name = [], set(), "index"
    while name in pages and name not in seen:
        seen.add(name)
        order.append(name)
        following = [l.get("href") for l in pages[name].root.iter(XHTML + "a") if l.get("accesskey") == "n"]
        name = following[0].split("#")[0][:-len(".html")] if following else None
    return order + sorted(set(pages) - seen)


def cut(page):
    """Cuts a page into passages: paragraphs with the examples and lists that belong to them."""
    out, current = [], None

    def close():
        nonlocal current
        if current and current["lines"]:
            body = "\n".join(current.pop("lines")).strip()
            previous = out[-1] if out else None
            if (len(body) < PASSAGE_TINY and previous and previous["titles"] == current["titles"]
                    and len(previous["body"]) + len(body) < PASSAGE_MAX):
                previous["body"] += "\n" + body
            elif body:
                current["body"] = body
                out.append(current)
        current = None

    def open_passage(titles, anchors):
        nonlocal current
        current = {"page": page.name + ".html", "anchors": anchors, "titles": titles, "lines": []}

    def length():
        return sum(len(line) + 1 for line in current["lines"]) if current else 0

    for titles, anchors, kind, term, text in page.blocks():
        if kind == "section":
            # A heading with next to nothing below it keeps its one line for the first paragraph that follows.
            close()
            continue
        if not text:
            continue
        if kind == "entry":
            line = text if not term or text.startswith(term) else f"{term}: {text}"
            alone = len(line) >= ENTRY_ALONE
            if current and (alone or current.get("entry") or length() + len(line) > PASSAGE_FULL):
                close()
            if not current:
                name = (term or "").split(" (")[0]
                open_passage(titles + [name] if alone and name and len(name) < 60 else titles, anchors)
                if alone:
                    current["entry"] = True
            current["lines"].append(line)
            continue
        if current:
            full = length()
            goes_on = text[0].islower() or text[0] == "("
            if (full + len(text) > PASSAGE_MAX
                    or kind == "p" and not goes_on and (full >= PASSAGE_FULL or current.get("entry"))
                    or kind == "item" and full >= 2 * PASSAGE_FULL):
                entry_titles, entry_anchors = current["titles"], current["anchors"]
                entry = current.get("entry")
                close()
                if entry and kind != "p":
                    titles, anchors = entry_titles, entry_anchors
        if not current:
            open_passage(titles, anchors)
        current["lines"].append(text)
    close()
    return out


def sql(script):
    """Runs a script in psql and returns what it prints, columns separated by tabs."""
    return subprocess.run(["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-F", "\t", "-f", "-"], input=script + "\n", text=True,
                          stdout=subprocess.PIPE, check=True, env={**os.environ, "PGCLIENTENCODING": "UTF8"}).stdout


def copy_text(value):
    """A value in COPY's text format."""
    return value.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def surface_words(vocabulary, texts):
    """A frequent word for each lexeme that to_tsvector('english', word) turns into exactly that lexeme."""
    script = ["CREATE TEMP TABLE t (body text);", "COPY t FROM stdin;", *map(copy_text, texts), "\\.", """
        WITH words AS (SELECT lexeme AS word, sum(cardinality(positions)) AS n
                       FROM t, unnest(to_tsvector('simple', body)) GROUP BY 1)
        SELECT DISTINCT ON (l COLLATE "C") l, word
        FROM (SELECT word, n, tsvector_to_array(to_tsvector('english', word)) AS lexemes FROM words) w, unnest(lexemes) l
        WHERE cardinality(lexemes) = 1
        ORDER BY l COLLATE "C", n DESC, word COLLATE "C";"""]
    found = dict(line.split("\t") for line in sql("\n".join(script)).splitlines())
    return [found.get(lexeme) for lexeme in vocabulary]


def lexemes(texts):
    """For each text, {lexeme: count} as to_tsvector('english', text) counts them."""
    script = ["CREATE TEMP TABLE t (id int, body text);", "COPY t FROM stdin;"]
    script += [f"{i}\t{copy_text(t)}" for i, t in enumerate(texts)]
    script += ["\\.", "SELECT id, lexeme, cardinality(positions) FROM t, unnest(to_tsvector('english', body)) "
               "ORDER BY id, lexeme COLLATE \"C\";"]
    counts = [{} for _ in texts]
    for line in sql("\n".join(script)).splitlines():
        i, lexeme, n = line.split("\t")
        counts[int(i)][lexeme] = int(n)
    return counts


class Model:
    """Vectors of passages (unit rows) and of terms: see Method in the README."""

    def __init__(self, passages):
        body = lexemes([p["body"] for p in passages])
        own = lexemes([p["titles"][-1] for p in passages])
        path = lexemes([" ".join(p["titles"][1:-1]) for p in passages])
        phrases = sorted({phrase for p in passages for _, phrase, _ in p["hints"]})
        phrase_words = dict(zip(phrases, lexemes(phrases)))

        seen = collections.Counter()
        for sets in zip(body, own, path):
            seen.update(set().union(*sets))
        # A number, a path or a compound whose parts count by themselves is not a term.
        self.vocabulary = sorted(w for w, n in seen.items()
                                 if n >= MIN_PASSAGES and re.search("[a-z]", w) and not re.search("[-/:@]", w) and len(w) < 40)
        self.column = {w: i for i, w in enumerate(self.vocabulary)}
        n = len(passages)
        self.idf = np.log((n + 1) / (np.array([seen[w] for w in self.vocabulary]) + 0.5))

        counts = []
        for i, p in enumerate(passages):
            count = collections.Counter(body[i])
            for w, k in own[i].items():
                count[w] += k * (GENERIC_WEIGHT if p["titles"][-1] in GENERIC_TITLES else TITLE_WEIGHT)
            for w, k in path[i].items():
                count[w] += k * PATH_WEIGHT
            index = collections.Counter()
            for origin, phrase, share in p["hints"]:
                if origin == "index" and share <= INDEX_SHARE:
                    for w in phrase_words[phrase]:
                        index[w] += INDEX_WEIGHT / share ** 0.5
            for w, k in index.items():
                count[w] += min(k, INDEX_MAX)
            counts.append(count)
        length = np.array([sum(b.values()) for b in body], float)
        length /= length.mean()
        saturated = [{w: k * (K1 + 1) / (k + K1 * (1 - B + B * length[i])) for w, k in c.items()} for i, c in enumerate(counts)]
        weights = self.matrix(saturated) @ scipy.sparse.diags(self.idf)
        weights = scipy.sparse.diags(1 / np.maximum(np.sqrt(weights.multiply(weights).sum(axis=1)).A1, 1e-9)) @ weights

        _, s, vt = randomized_svd(weights, DIMENSIONS, n_iter=6, random_state=0)
        self.in_passages = vt.T.astype(np.float32)
        self.in_questions = (vt.T * np.sqrt(s)).astype(np.float32)
        self.train(passages, weights.tocsr().astype(np.float32), own, path, phrase_words)
        self.passages = unit(weights @ self.in_passages)
        self.terms = self.in_questions * self.idf[:, None]

    def train(self, passages, weights, own, path, phrase_words):
        """Titles, index entries, sentences that refer to a passage and its own sentences are questions whose answers are
        known: from the decomposition on, the term vectors of questions and of passages descend the cross entropy of
        picking the right passage out of a batch, both ways."""
        page_numbers = {}
        page = np.array([page_numbers.setdefault(p["page"], len(page_numbers)) for p in passages])
        asked, target, weight, sentences, source = [], [], [], [], []
        for i, p in enumerate(passages):
            asked.append(dict.fromkeys([*own[i], *path[i]], 1))
            target.append(i)
            weight.append(1 / 3)
            for _, phrase, share in p["hints"]:
                if share <= HINT_SHARE:
                    asked.append(dict.fromkeys(phrase_words[phrase], 1))
                    target.append(i)
                    weight.append(1 / share)
            short = [t for t in re.split(r"(?<=[.!?:;])\s+", p["body"]) if 30 < len(t) < 300][:4]
            sentences += short
            source += [i] * len(short)
        asked += [dict.fromkeys(words, 1) for words in lexemes(sentences)]
        first_sentence, target = len(target), np.array(target + source)
        asked = (self.matrix(asked) @ scipy.sparse.diags(self.idf)).tocsr().astype(np.float32)
        weight = np.array(weight) / sum(weight)

        random = np.random.default_rng(0)
        towers = [self.in_questions, self.in_passages]
        for x in towers:
            x /= np.abs(x).mean()
        moments = [(np.zeros_like(x), np.zeros_like(x)) for x in towers]
        for step in range(1, STEPS_OF_TRAINING + 1):
            chosen = np.concatenate([random.choice(first_sentence, BATCH // 2, p=weight),
                                     random.integers(first_sentence, asked.shape[0], BATCH // 2)])
            q, d = asked[chosen], weights[target[chosen]]
            q.data = q.data * (random.random(len(q.data)) > DROPPED_WORDS)
            (uq, nq), (ud, nd) = direction(q @ towers[0]), direction(d @ towers[1])
            logits = uq @ ud.T / TEMPERATURE
            # Other passages of the right page are not wrong.
            here = page[target[chosen]]
            logits[(here[:, None] == here[None, :]) & ~np.eye(BATCH, dtype=bool)] = -50
            by_question = np.exp(logits - logits.max(axis=1, keepdims=True))
            by_passage = np.exp(logits - logits.max(axis=0, keepdims=True))
            slope = ((by_question / by_question.sum(axis=1, keepdims=True) + by_passage / by_passage.sum(axis=0, keepdims=True))
                     / 2 - np.eye(BATCH)) / (TEMPERATURE * BATCH)
            for x, (m, v), rows, u, n, g in zip(towers, moments, (q, d), (uq, ud), (nq, nd), (slope @ ud, slope.T @ uq)):
                gradient = rows.T @ ((g - u * (g * u).sum(axis=1, keepdims=True)) / n)
                m += 0.1 * (gradient - m)
                v += 0.001 * (gradient * gradient - v)
                rate = RATE * (1 - step / STEPS_OF_TRAINING) * np.abs(x).mean()
                x -= (rate * (m / (1 - 0.9 ** step)) / (np.sqrt(v / (1 - 0.999 ** step)) + 1e-8)).astype(np.float32)

    def matrix(self, counts):
        """The sparse matrix of a list of {lexeme: value}."""
        cells = [(i, self.column[w], v) for i, c in enumerate(counts) for w, v in c.items() if w in self.column]
        rows, columns, values = zip(*cells)
        return scipy.sparse.csr_matrix((values, (rows, columns)), shape=(len(counts), len(self.vocabulary)))


def direction(rows):
    """Unit rows, and their lengths before."""
    length = np.linalg.norm(rows, axis=1, keepdims=True) + 1e-6
    return rows / length, length


def unit(rows):
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def ask_questions(passages, model, show):
    """Prints for how many of the known questions a right page comes first, and among the first three and ten."""
    with open(os.path.join(HERE, "questions.tsv"), encoding="utf8") as f:
        questions = [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]
    ranks = []
    for (question, right), words in zip(questions, lexemes([q for q, _ in questions])):
        vector = sum(model.terms[model.column[w]] for w in words if w in model.column)
        best = np.argsort(-(model.passages @ vector), kind="stable")[:10]
        rank = next((r for r, i in enumerate(best) if passages[i]["page"][:-len(".html")] in right.split()), 10)
        ranks.append(rank)
        if show:
            print(f"{rank + 1 if rank < 10 else '-':>2} {question}")
            for i in best[:3]:
                print(f"      {' > '.join(passages[i]['titles'][1:])}: {passages[i]['body'][:100]!r}")
    ranks = np.array(ranks)
    print(f"{len(ranks)} questions: a right page is first for {(ranks < 1).sum()}, among the first three for "
          f"{(ranks < 3).sum()}, ten for {(ranks < 10).sum()}; mean reciprocal rank {np.mean((ranks < 10) / (ranks + 1)):.3f}")


def vector_text(row):
    return "[" + ",".join(map(str, row)) + "]"


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--html", default="/usr/share/doc/postgresql-doc-15/html")
    parser.add_argument("--output", default=os.path.join(HERE, "corpus.sql.xz"))
    parser.add_argument("--show", action="store_true")
    args = parser.parse_args()

    passages = read_manual(args.html)
    print(f"{len(passages)} passages, {sum(len(p['body']) for p in passages) / 1e6:.1f} MB of text")
    model = Model(passages)
    print(f"{len(model.vocabulary)} terms, {DIMENSIONS} dimensions")

    # The file holds integers: the loader normalises passages, and only the direction of a sum of terms matters.
    model.passages = np.rint(model.passages * STEPS).astype(int)
    model.terms = np.rint(model.terms * (STEPS / np.median(np.linalg.norm(model.terms, axis=1)))).astype(int)
    words = surface_words(model.vocabulary, [p["body"] + " " + " ".join(p["titles"]) for p in passages])

    notice = flat_notice(args.html)
    lines = ["-- The PostgreSQL manual, cut into passages, with vectors: made by make_corpus.py.", "--",
             *(f"-- {line}".rstrip() for line in notice), "",
             "COPY passages (part, chapter, title, page, anchor, body, embedding) FROM stdin;"]
    for p, v in zip(passages, model.passages):
        title = " > ".join(p["titles"][1:] or p["titles"])
        anchor = p["anchors"][-1] if p["anchors"] else ""
        fields = [p["part"], p["chapter"], title, p["page"], anchor, p["body"], vector_text(v)]
        lines.append("\t".join(map(copy_text, fields)))
    lines += ["\\.", "", "COPY words (word, embedding) FROM stdin;"]
    lines += [f"{copy_text(word)}\t{vector_text(v)}" for word, v in zip(words, model.terms) if word and v.any()]
    lines += ["\\.", ""]
    data = lzma.compress("\n".join(lines).encode("utf8"), preset=9 | lzma.PRESET_EXTREME)
    with open(args.output, "wb") as f:
        f.write(data)
    print(f"{args.output}: {len(data) / 1e6:.2f} MB")
    unit_passages = unit(model.passages.astype(float))
    model.passages = unit_passages
    ask_questions(passages, model, args.show)


def flat_notice(directory):
    """The manual's legal notice, wrapped."""
    page = ElementTree.parse(os.path.join(directory, "legalnotice.html")).getroot()
    text = [flat_text(p) for p in page.iter(XHTML + "p")]
    return [line for paragraph in text for line in [*textwrap.wrap(paragraph, 100), ""]]


if __name__ == "__main__":
    main()
