"""The model in the browser: a folder of static files that any server can give."""
