"""Stories about single classes and about instances that are wired by hand."""
