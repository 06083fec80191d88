"""Mode `batched`: answers for some nodes of one growing graph, from features and rows that are kept; free of torch."""
