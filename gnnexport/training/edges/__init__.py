"""Choose the edges that each layer of a model keeps."""
