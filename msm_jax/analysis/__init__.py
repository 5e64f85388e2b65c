"""From scores to evidence: statistics, plots, tables in the terminal and the HTML report."""
