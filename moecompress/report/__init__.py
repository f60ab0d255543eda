"""Floor 6: tables and the HTML report."""
