"""Baselines: the most frequent class, and a linear model on n-gram counts.

Source: the n-gram baseline follows Wang and Manning, "Baselines and Bigrams", ACL 2012, with TF-IDF weights.
"""

from collections.abc import Sequence

import numpy as np
from sklearn.dummy import DummyClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline, make_union
from sklearn.svm import LinearSVC


def majority(class_weights: str | None) -> DummyClassifier:
    """Predict the most frequent class of the training questions, whatever the weights."""
    return DummyClassifier(strategy="most_frequent")


def tfidf() -> FeatureUnion:
    """TF-IDF of word 1- to 2-grams and character 1- to 5-grams."""
    words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    characters = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 5), sublinear_tf=True)
    return make_union(words, characters)


def tfidf_svm(class_weights: str | None) -> Pipeline:
    """TF-IDF, and a linear support vector machine."""
    return make_pipeline(tfidf(), LinearSVC(random_state=0, class_weight=class_weights))


BASELINES = {"majority": majority, "tfidf_svm": tfidf_svm}


def tfidf_accuracy(
    train_texts: Sequence[str], train_labels: np.ndarray, test_texts: Sequence[str], test_labels: np.ndarray
) -> float:
    """Accuracy of the TF-IDF baseline, fitted on train and scored on test."""
    [predicted] = predict_baselines(train_texts, train_labels, test_texts)
    return float(np.mean(predicted["tfidf_svm"] == test_labels))


def predict_baselines(
    texts: Sequence[str], labels: Sequence[int], *splits: Sequence[str], class_weights: str | None = None
) -> list[dict[str, np.ndarray]]:
    """Fit every baseline on texts and labels, and predict the class numbers (N,) of the questions of each split."""
    fitted = {name: make(class_weights).fit(texts, labels) for name, make in BASELINES.items()}
    return [{name: baseline.predict(questions) for name, baseline in fitted.items()} for questions in splits]
