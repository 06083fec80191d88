"""Judge a report and render it. Free of torch."""
