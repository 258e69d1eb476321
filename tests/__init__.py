"""Tests. Modules import each other as `tests.FOLDER.MODULE`."""
