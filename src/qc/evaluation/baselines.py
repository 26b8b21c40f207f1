"""Baselines: the most frequent class, and a linear model on n-gram counts.

Source: the n-gram baseline follows Wang and Manning, "Baselines and Bigrams", ACL 2012, with TF-IDF weights.
"""

import re
from collections.abc import Sequence

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC


def words(text: str) -> list[str]:
    """Split a text into words of two or more characters; one without such a word, at its spaces."""
    return re.findall(r"\w\w+", text) or text.split()


def tfidf() -> FeatureUnion:
    """TF-IDF of word 1- to 2-grams and character 1- to 5-grams."""
    word_grams = TfidfVectorizer(tokenizer=words, token_pattern=None, ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True)
    return make_union(word_grams, characters)


def tfidf_svm(class_weights: str | None = None) -> Pipeline:
    """TF-IDF, and a linear support vector machine."""
    return make_pipeline(tfidf(), LinearSVC(random_state=0, class_weight=class_weights))


def predict_baselines(
    texts: Sequence[str], labels: Sequence[int], *splits: Sequence[str], class_weights: str | None = None
) -> list[dict[str, np.ndarray]]:
    """Fit every baseline on texts and labels, and predict the class numbers (N,) of the questions of each split.

    `majority`, the most frequent class, ignores the class weights.
    """
    baselines = {"majority": DummyClassifier(strategy="most_frequent"), "tfidf_svm": tfidf_svm(class_weights)}
    for baseline in baselines.values():
        baseline.fit(texts, labels)
    return [{name: baseline.predict(split) for name, baseline in baselines.items()} for split in splits]
