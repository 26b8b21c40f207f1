"""Tables, figures, the report page and model cards."""
