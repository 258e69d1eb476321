"""Parts for tests of this program, and of programs that embed it; nothing here runs in production."""
