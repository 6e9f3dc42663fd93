"""``segc explain``."""

import click


@click.command()
@click.argument("codes", nargs=-1, metavar="[CODE]...")
def command(codes: tuple[str, ...]) -> None:
    """Tell what a diagnostic means: why it is one, an example, and how it is mended. Without CODE all are listed."""
    from segc.diagnostics import CODES
    from segc.explanations import GROUPS, explained

    unknown = [code for code in codes if code.upper() not in CODES]
    if unknown:
        raise click.UsageError(f"there is no code {', '.join(unknown)}; `segc explain` lists them all")
    if codes:
        click.echo("\n".join(explained(code.upper()) for code in codes), nl=False)
        return
    for letter, title in GROUPS.items():
        listed = [f"  {code}  {text}" for code, text in CODES.items() if code.startswith(letter)]
        if listed:
            click.echo("\n".join([title, *listed]))
