"""rich's console as it is used here: names print as they are, and a reader that leaves early ends no sweep."""

import rich.console


class Console(rich.console.Console):
    """Without markup and emoji, whatever a name looks like. Where nobody listens any more it raises BrokenPipeError."""

    def __init__(self, **options):
        super().__init__(markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        raise
