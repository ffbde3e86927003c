"""What is said of an item, as words, and as a short vector: the same for training and for a record that arrives.

Words of the title, the category, the brand and the attributes weigh by TF-IDF, and are projected by the first
components of the training catalogue's singular value decomposition.

Source: Deerwester et al., "Indexing by Latent Semantic Analysis", JASIS 1990; weights as in Salton and Buckley,
"Term-weighting approaches in automatic text retrieval", 1988 (1 + log tf, times idf, cosine normalised).
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log, sqrt

import numpy as np
from numpy.typing import NDArray

from schemas.records import Item

MAX_TITLE_CHARACTERS = 512
MAX_WORDS = 64
MAX_ATTRIBUTES = 32
MAX_TERM_CHARACTERS = 64
_WORD = re.compile(r"[^\W_]+")
_PLURAL_FROM = 4  # letters; "gas" and "bus" stay


def words_of(item: Item) -> list[str]:
    """Return the terms that stand for an item, repeats included; bounded, whatever a record holds.

    Title words are in lower case and lose a plural s; category, brand and attributes are one term each.

    Examples
    --------
    >>> words_of(Item("m1", "default", "Red MUGS, set/2", "mugs", None, 2.0, True, False, {"size": "L"}, 0))
    ['red', 'mug', 'set', '2', 'category=mugs', 'size=l']
    """
    terms = [_singular(word) for word in _WORD.findall(item.title[:MAX_TITLE_CHARACTERS].lower())][:MAX_WORDS]
    facts = [("category", item.category), ("brand", item.brand or "")]
    facts += sorted(item.attributes.items())[:MAX_ATTRIBUTES]
    terms += [f"{name}={value}".lower() for name, value in facts if value]
    return [term[:MAX_TERM_CHARACTERS] for term in terms]


def _singular(word: str) -> str:
    return word[:-1] if len(word) >= _PLURAL_FROM and word.endswith("s") and not word.endswith("ss") else word


@dataclass(frozen=True)
class ContentVocabulary:
    """Terms with their weights, as training fitted them.

    Parameters
    ----------
    terms
        Term to its row.
    idf
        float32 (v,): above 0.
    components
        float32 (v, e)
    """

    terms: Mapping[str, int]
    idf: NDArray[np.float32]
    components: NDArray[np.float32]

    @classmethod
    def of(
        cls, terms: Sequence[str], idf: NDArray[np.float32], components: NDArray[np.float32]
    ) -> "ContentVocabulary":
        """Return the vocabulary of v different terms, in row order."""
        return cls({term: row for row, term in enumerate(terms)}, idf, components)

    def weights(self, words: Sequence[str]) -> list[tuple[int, float]]:
        """Return rows and weights of the terms that are known, ascending; their squares add up to 1."""
        counts = Counter(self.terms[word] for word in words if word in self.terms)
        found = [(row, (1.0 + log(count)) * float(self.idf[row])) for row, count in sorted(counts.items())]
        length = sqrt(sum(weight * weight for _, weight in found))
        return [(row, weight / length) for row, weight in found]

    def vector(self, item: Item) -> NDArray[np.float32]:
        """Return the item's place, float32 (e,) of length 1; zeros when nothing said of it is known."""
        total = np.zeros(self.components.shape[1])
        for row, weight in self.weights(words_of(item)):
            total += weight * self.components[row]
        placed: NDArray[np.float32] = unit_vectors(total[None, :])[0]
        return placed


def unit_vectors(vectors: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return float32 (n, e) of length 1 each; what is as good as zero becomes zeros."""
    lengths = np.sqrt((vectors * vectors).sum(axis=1, keepdims=True))
    known = lengths > 1e-6
    result: NDArray[np.float32] = np.where(known, vectors / np.where(known, lengths, 1.0), 0.0).astype(
        np.float32
    )
    return result
