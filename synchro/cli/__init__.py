"""The command line: typer verbs over the client."""
