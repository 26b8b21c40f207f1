"""Questions: file formats, tokenizers, tables, splits, the audit, and packed batches."""
