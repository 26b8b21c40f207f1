"""What a model has to beat: the most frequent class, and a linear model on counted n-grams.

Source: the n-gram baseline follows Wang and Manning, "Baselines and Bigrams", ACL 2012, with TF-IDF weights.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC


def majority() -> DummyClassifier:
    """Always the most frequent class of the training questions."""
    return DummyClassifier(strategy="most_frequent")


def tfidf_svm() -> Pipeline:
    """TF-IDF of word 1- to 2-grams and character 1- to 5-grams, and a linear support vector machine."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True)
    return make_pipeline(make_union(words, characters), LinearSVC(random_state=0))


BASELINES = {"majority": majority, "tfidf_svm": tfidf_svm}


def predict_baselines(
    texts: Sequence[str], labels: Sequence[int], *splits: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Fit every baseline on texts and labels, and predict the class numbers (N,) of the questions of each split."""
    fitted = {name: make().fit(texts, labels) for name, make in BASELINES.items()}
    return [{name: baseline.predict(questions) for name, baseline in fitted.items()} for questions in splits]
