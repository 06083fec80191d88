"""From a saved model to a proven bundle: the only place that runs passes."""
