"""One module per figure: it measures, prints a table, and appends to the results."""
