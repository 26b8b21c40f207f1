"""Questions: the one reader of their files, labels, tokenizers and tables; what `tokenize` runs."""
