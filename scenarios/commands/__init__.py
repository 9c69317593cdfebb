"""The commands, one a file: ``main(arguments) -> exit code``. What is heavy is imported where it is used."""
