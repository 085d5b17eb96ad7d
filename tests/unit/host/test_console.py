import pytest

from agi_core.host.console import plain_console


@pytest.mark.parametrize("text", ["ca.crt SHA256 30:CD:61:AB:8E:FD", "[red]Guys[/red] :smile:", "a" * 200])
def test_text_is_printed_as_it_is(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    plain_console().print(text)
    assert capsys.readouterr().out == f"{text}\n"
