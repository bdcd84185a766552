"""The commands of `omnilatent`, by family. Each module has `add_commands`, and imports what a command does when it runs."""
