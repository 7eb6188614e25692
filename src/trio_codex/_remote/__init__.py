"""Operations on the server outside of turns: processes, watches and terminals."""
